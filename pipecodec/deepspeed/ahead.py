"""Frames ahead of their tensors on DeepSpeed's engine: no host waits for a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..engine.announcements import AnnouncementsIn, AnnouncementsOut
from ..engine.boundary_roads import BoundaryRoads
from ..engine.stage_module import StageModule
from ..errors import bug
from .hooks import Action

__all__ = ["frames_ahead"]


def frames_ahead(
    engine: Any, stages: Sequence[StageModule], roads: BoundaryRoads
) -> tuple[Action, Action]:
    """Let stages say what they send when their forward returns, and know it before they receive.

    Returns the functions that stand in for the engine's exchange of sizes: the receiving one, and
    the sending one, which has nothing left to do.
    """
    (stage,) = stages  # DualPipeV, which has two, exchanges sizes once
    if stage.outgoing is not None and not stage.last:
        stage.outgoing.announce = AnnouncementsOut(roads.forward_senders[stage.stage_id + 1]).say
    said = None
    if stage.stage_id > 0:
        said = AnnouncementsIn(roads.forward_receivers[stage.stage_id])

    def receive(send_stage: int) -> tuple[torch.Tensor, ...]:
        if said is None:
            raise bug("a first stage that receives tensors")
        announced = said.take()
        stage.expect(announced.frame)
        tunnel, *others = announced.sizes
        return (
            engine._allocate_or_extend_buffers(0, [tunnel], torch.float32),
            *(
                engine._allocate_or_extend_buffers(number, [size], torch.uint8)
                for number, size in enumerate(others, 1)
            ),
        )

    def send(buffer: Any, recv_stage: int) -> None:
        """The stage has said it."""

    return receive, send
