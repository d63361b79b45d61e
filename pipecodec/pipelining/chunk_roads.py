"""Word of the values that nobody used, in whatever order a schedule runs backward passes.

A custom schedule may run them in another order on one stage than on the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _C
from ..codec import TunnelCodec
from ..engine.unused_roads import InMessages, Road

__all__ = ["WithinRank", "note_chunk"]


class WithinRank:
    """Carries such flags between two stages of this rank, and keeps them by micro-batch."""

    def __init__(self) -> None:
        self._chunk = 0
        self._posted: dict[int, Sequence[int]] = {}

    def note(self, chunk: int) -> None:
        """Let flags be those of the backward pass of this micro-batch."""
        self._chunk = chunk

    def tell(self, receiver: TunnelCodec) -> None:
        """Let the receiving end note the values that nobody used."""
        receiver.note_unused = lambda unused, tunnel: self._posted.update({self._chunk: unused})

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        """Return the values that nobody used."""
        return self._posted.pop(self._chunk)

    def finish(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Forget the last batch."""
        self._posted.clear()


def note_chunk(road: Road, chunk: int) -> None:
    """Let the flags that go this road next be those of this micro-batch."""
    if isinstance(road, WithinRank):
        road.note(chunk)
    elif isinstance(road, InMessages):
        road.chunk = chunk
