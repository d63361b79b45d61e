"""Records the tensors that a stage sends to the next one."""

from __future__ import annotations

import re
from collections.abc import Sequence
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

    def note(_module: Any, _args: Any, sent: Sequence[torch.Tensor]) -> None:
        handle.remove()
        _note(crossing, names, sent)

    handle = stage.register_forward_hook(note)
    return crossing


def watch_chunks(stage: Any) -> Crossing:
    """Record the same for a stage of ``pipecodec.pipelining.build_stage``."""
    crossing = Crossing()
    if stage.is_last:
        return crossing
    forward = stage.forward_one_chunk

    def forward_one_chunk(*args: Any, **kwargs: Any) -> Any:
        stage.forward_one_chunk = forward
        sent = forward(*args, **kwargs)
        _note(crossing, stage.run.boundary_out.names, sent)
        return sent

    stage.forward_one_chunk = forward_one_chunk
    return crossing


def count(outgoing: Any, incoming: Any, crossing: Crossing) -> None:
    """Copy the counters of a stage's codecs, each a codec or None, into ``crossing``."""
    if outgoing is not None:
        crossing.sent = outgoing.stats._asdict()
    if incoming is not None:
        crossing.received = incoming.stats._asdict()


def _note(crossing: Crossing, names: Sequence[str], sent: Sequence[torch.Tensor]) -> None:
    crossing.messages = [t.numel() * t.element_size() for t in sent]
    for leaf in leaves(sent):
        name = re.sub(r"^outputs\[(\d+)\]", lambda found: names[int(found[1])], leaf.path)
        shape = list(leaf.shape or ())
        what = f"{leaf.dtype} {shape}, {leaf.nbytes:,} bytes, {_ROUTES[leaf.route]}"
        crossing.values.append((name, what))
