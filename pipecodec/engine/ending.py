"""From a checkpointed last stage to the loss function: values that cross, and their graph."""

from __future__ import annotations

from typing import Any, Literal

from .. import _C
from ..codec import TunnelCodec
from ..options import BoundaryOptions

__all__ = ["codec_within", "reaches_a_leaf"]


def codec_within(differentiable: Literal["auto", "by-dtype"]) -> TunnelCodec:
    """Return a codec whose two sides are in one process, where a value may be sent again."""
    options = BoundaryOptions(differentiable=differentiable, dynamic_shape=True)
    codec = TunnelCodec.of(options, "loss")

    def note_unused(unused: list[int], tunnel: _C.Tunnel) -> None:
        codec.unused = unused  # for the stage, which is recomputed next and leaves them out

    codec.note_unused = note_unused
    return codec


def reaches_a_leaf(node: Any) -> bool:
    """Return whether backward from ``node`` ends in a leaf that did not come out of a tunnel."""
    seen, unvisited = {node}, [node]
    while unvisited:
        node = unvisited.pop()
        if node is None or node.name() == _C.EXIT:
            continue
        if not node.next_functions:
            return True
        found = {following for following, _ in node.next_functions} - seen
        seen |= found
        unvisited += found
    return False
