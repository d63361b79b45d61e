"""Records the tensors that a stage sends to the next one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pipecodec.describe import leaves

if TYPE_CHECKING:
    from pipecodec.deepspeed import DeepSpeedPipeStageWrapper

__all__ = ["Crossing", "count", "watch"]

_ROUTES = {
    "tunnel": "in the tunnel, its gradient comes back",
    "raw slot": "in a slot of its own",
    "frame": "in the frame",
}


@dataclass
class Crossing:
    """Tensors that one process sent to the next stage and received from the one before.

    ``values`` holds (name, description) of every tensor that the first micro-batch sent,
    ``messages`` the bytes of each tensor that carried them; ``sent`` and ``received`` are the
    counters of the two codecs, empty where there is no such neighbour.
    """

    values: list[tuple[str, str]] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)


def watch(stage: DeepSpeedPipeStageWrapper) -> Crossing:
    """Record the tensors that ``stage`` sends with its first micro-batch."""
    crossing = Crossing()
    if stage.last:
        return crossing
    names = stage.liveness[stage.stage_id + 1]

    def note(_module: Any, _args: Any, sent: tuple[torch.Tensor, ...]) -> None:
        handle.remove()
        crossing.messages = [t.numel() * t.element_size() for t in sent]
        for leaf in leaves(sent):
            name = re.sub(r"^outputs\[(\d+)\]", lambda found: names[int(found[1])], leaf.path)
            shape = list(leaf.shape or ())
            what = f"{leaf.dtype} {shape}, {leaf.nbytes:,} bytes, {_ROUTES[leaf.route]}"
            crossing.values.append((name, what))

    handle = stage.register_forward_hook(note)
    return crossing


def count(stage: DeepSpeedPipeStageWrapper, crossing: Crossing) -> None:
    """Copy the counters of the stage's codecs into ``crossing``."""
    if stage.outgoing is not None:
        crossing.sent = stage.outgoing.stats._asdict()
    if stage.incoming is not None:
        crossing.received = stage.incoming.stats._asdict()
