"""The ways on which values enter and leave a stage: boundaries, and links within a rank."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from .. import _C
from ..codec import TunnelCodec
from ..engine.unused_roads import FIRST_TAG, InMessages, Road
from ..options import BoundaryOptions

__all__ = ["BetweenRanks", "WayIn", "WayOut", "WithinRank", "own_memory"]


_BEHIND_OTHERS = 2**16
"""How far these tags lie behind the first one, so that no other word has one of them."""


class WithinRank:
    """Carries the flags of values that nobody used between two stages of this rank.

    They are kept by micro-batch: a custom schedule may run backward passes in another order on one
    stage than on the other.
    """

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


class BetweenRanks(InMessages):
    """Carries such flags to another rank, in messages with a tag for each micro-batch.

    ``boundaries`` is the number of all boundaries, of which ``boundary`` is one, from 1.
    """

    def __init__(self, peer: int, boundary: int, boundaries: int, group: Any) -> None:
        super().__init__(peer, FIRST_TAG, group)
        self._first, self._boundaries = FIRST_TAG + _BEHIND_OTHERS + boundary, boundaries

    def note(self, chunk: int) -> None:
        """Let messages be those of the backward pass of this micro-batch."""
        self.tag = self._first + chunk * self._boundaries


class WayOut:
    """Sends the values ``names``; ``road`` brings word of those that nobody used."""

    def __init__(
        self, name: str, names: Sequence[str], options: BoundaryOptions, road: Road
    ) -> None:
        self.names = list(names)
        self.road = road
        self.codec = _codec(name, names, options)
        self.codec.in_flight = deque()
        self._sent: dict[int, tuple[_C.Tunnel, Any]] = {}
        self._unused: dict[int, Sequence[int]] = {}

    def send(
        self, chunk: int, values: Sequence[Any], token: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the tensors of a micro-batch's values, the tunnel first."""
        tensors = self.codec.send(tuple(values), token, token.device)
        if self.codec.in_flight:
            self._sent[chunk] = self.codec.in_flight.pop()
            self.codec.in_flight.clear()
        return tensors

    def before_backward(self, chunk: int, gradient: torch.Tensor | None) -> None:
        """Leave the values that nobody used out of the backward pass that begins.

        ``gradient`` is that of the tunnel; None in the second pass of a micro-batch.
        """
        if chunk in self._sent:
            tunnel, sent = self._sent.pop(chunk)
            unused: Sequence[int] = ()
            if len(tunnel) > 0:
                _note_chunk(self.road, chunk)
                unused = self.road.take(tunnel, lambda: gradient)
                entered = sent() if unused else None
                if entered is not None:
                    _C.leave_out(entered, unused)
            self._unused[chunk] = unused
        self.codec.unused = self._unused.get(chunk)

    def after_backward(self, chunk: int, *, done: bool) -> None:
        """End a backward pass; ``done`` tells that it was the micro-batch's last one."""
        self.codec.unused = None
        if done:
            self._unused.pop(chunk, None)

    def start(self) -> None:
        """Forget the last batch."""
        self._sent.clear()
        self._unused.clear()
        if self.codec.in_flight is not None:
            self.codec.in_flight.clear()
        self.road.close()


class WayIn:
    """Receives the values ``names``; ``road`` is told of those that nobody used."""

    def __init__(
        self, name: str, names: Sequence[str], options: BoundaryOptions, road: Road
    ) -> None:
        self.names = list(names)
        self.road = road
        self.codec = _codec(name, names, options)
        road.tell(self.codec)

    def receive(self, tensors: Sequence[torch.Tensor]) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the values by name, in the memory of ``tensors``, and the token."""
        values, token = self.codec.receive(tensors)
        return dict(zip(self.names, values, strict=True)), token

    def before_backward(self, chunk: int) -> None:
        """Let the flags of the backward pass that begins be those of this micro-batch."""
        _note_chunk(self.road, chunk)


def _note_chunk(road: Road, chunk: int) -> None:
    if isinstance(road, (WithinRank, BetweenRanks)):
        road.note(chunk)


def own_memory(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return what was sent within a rank, in memory that no value of the sending stage lies in.

    That stage may write into a buffer that it returned before the receiving one runs.
    """
    tunnel, *others = tensors
    received = tunnel.detach()
    shared = _C.use_count(received) > 2  # a lone leaf lies in the memory of its tunnel
    return [received.clone() if shared else received, *(tensor.clone() for tensor in others)]


def _codec(name: str, names: Sequence[str], options: BoundaryOptions) -> TunnelCodec:
    codec = TunnelCodec.of(options, name)
    codec.names = list(names)
    return codec
