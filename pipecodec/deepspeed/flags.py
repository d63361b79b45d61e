"""Leaves that nobody used in a micro-batch have no gradient on DeepSpeed's engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import _C
from ..engine.boundary_roads import BoundaryRoads
from ..engine.stage_module import StageModule
from ..engine.unused_roads import InOneProcess, Road, across_ranks
from ..errors import bug

__all__ = ["Flags", "carry_flags", "owners_of", "read_from_gradients"]


class Flags(NamedTuple):
    """The actions that carry the flags of an engine's boundaries, as in :class:`.hooks.Hooks`."""

    before_backward: Callable[..., None]
    after_backward: Callable[..., None]
    after_schedule: Callable[[], None]
    schedule_failed: Callable[[], None]


def carry_flags(engine: Any, stages: Sequence[StageModule], opened: BoundaryRoads) -> Flags:
    """Let a leaf that nobody used in a micro-batch have no gradient in the stage that sent it.

    The flags take the backward roads of ``opened``; where it has none, gradients say it. The graph
    behind such a leaf is left out of the backward pass, as if it had never been sent: its
    parameters keep their ``.grad``, and no hook of it is called.
    """
    by_phase = sorted(stages, key=lambda stage: stage.stage_id)  # DualPipeV has two, in this order
    owners = owners_of(engine, by_phase[0].total_stages)
    roads: dict[int, Road] = {}

    def road(boundary: int) -> Road:
        if boundary not in roads:
            if owners[boundary - 1] == owners[boundary]:
                roads[boundary] = InOneProcess()
            else:
                roads[boundary] = across_ranks(opened, boundary)
        return roads[boundary]

    for stage in by_phase:
        if stage.stage_id > 0:
            if stage.incoming is None:
                raise bug("a stage behind the first one that receives nothing")
            road(stage.stage_id).tell(stage.incoming)
        if not stage.last:
            if stage.outgoing is None:
                raise bug("a stage before the last one that sends nothing")
            stage.outgoing.in_flight = deque()
            road(stage.stage_id + 1)

    def before_backward(buffer_id: int, phase: int = 0) -> None:
        stage = by_phase[phase]
        codec = stage.outgoing
        if stage.last or codec is None or codec.in_flight is None:
            return
        tunnel, sent = codec.in_flight.popleft()
        if len(tunnel) > 0:
            road = roads[stage.stage_id + 1]
            unused = road.take(tunnel, lambda: _gradient(engine, buffer_id))
            entered = sent() if unused else None
            if entered is not None:  # else it is sent again in its backward pass, without them
                _C.leave_out(entered, unused)
            codec.unused = unused

    def after_backward(buffer_id: int, phase: int = 0) -> None:
        stage = by_phase[phase]
        if not stage.last and stage.outgoing is not None:
            stage.outgoing.unused = None

    def finish() -> None:
        for each in roads.values():
            each.finish()
        opened.finish()

    def close() -> None:
        for each in roads.values():
            each.close()

    return Flags(before_backward, after_backward, finish, close)


def read_from_gradients(engine: Any) -> bool:
    """Return whether the host may read this engine's gradients without waiting for a device."""
    return engine.device.type == "cpu"  # type: ignore[no-any-return]


def owners_of(engine: Any, stages: int) -> list[int]:
    """Return the rank of each stage, in this rank's pipeline."""
    ranks = [engine.grid.stage_to_global(stage) for stage in range(engine.num_stages)]
    return ranks + ranks[::-1] if stages > len(ranks) else ranks


def _gradient(engine: Any, buffer_id: int) -> torch.Tensor:
    """Return the gradient of the tunnel that this micro-batch sent."""
    buffers = engine.pipe_buffers.get("grads")  # DualPipeV's
    gradients = engine.grad_layer if buffers is None else buffers[buffer_id]
    return gradients[0]  # type: ignore[no-any-return]
