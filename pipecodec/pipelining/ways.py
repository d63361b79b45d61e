"""The ways on which values enter and leave a stage: boundaries, and links within a rank."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from .. import _C
from ..codec import TunnelCodec
from ..engine.unused_roads import Road
from ..options import BoundaryOptions
from .chunk_roads import note_chunk

__all__ = ["WayIn", "WayOut", "own_memory"]


class _Way:
    """Carries the values ``names``; ``road`` carries word of those that nobody used."""

    def __init__(
        self, name: str, names: Sequence[str], options: BoundaryOptions, road: Road
    ) -> None:
        self.names = list(names)
        self.road = road
        self.codec = TunnelCodec.of(options, name)
        self.codec.names = self.names


class WayOut(_Way):
    """Sends the values, and takes the word."""

    def __init__(
        self, name: str, names: Sequence[str], options: BoundaryOptions, road: Road
    ) -> None:
        super().__init__(name, names, options, road)
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
                note_chunk(self.road, chunk)
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


class WayIn(_Way):
    """Receives the values, and gives the word."""

    def __init__(
        self, name: str, names: Sequence[str], options: BoundaryOptions, road: Road
    ) -> None:
        super().__init__(name, names, options, road)
        road.tell(self.codec)

    def receive(
        self, tensors: Sequence[torch.Tensor], frame: torch.Tensor | None = None
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the values by name, in the memory of ``tensors``, and the token.

        ``frame`` is the last of the tensors on the CPU, if it is known there.
        """
        values, token = self.codec.receive(tensors, True, frame)
        return dict(zip(self.names, values, strict=True)), token

    def before_backward(self, chunk: int) -> None:
        """Let the flags of the backward pass that begins be those of this micro-batch."""
        note_chunk(self.road, chunk)


def own_memory(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors sent within a rank, in memory that no value of the sending stage lies in.

    That stage may write into a buffer that it returned before the receiving one runs.
    """
    tunnel, *others = tensors
    received = tunnel.detach()
    shared = _C.use_count(received) > 2  # a lone leaf lies in the memory of its tunnel
    return [received.clone() if shared else received, *(tensor.clone() for tensor in others)]
