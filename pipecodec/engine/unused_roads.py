"""Which leaves of a boundary nobody used: from the rank that ran backward to the one that will.

Where messages lie on the CPU, the tunnel's gradient says it. On a device the host would have to
wait for that, so flags go from host to host, a few bytes for each boundary and micro-batch.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from .. import _C
from ..codec import TunnelCodec
from ..errors import bug
from .boundary_roads import BoundaryRoads, ChunkReceiver, ChunkSender

__all__ = ["InGradients", "InMessages", "InOneProcess", "Road", "across_ranks", "host_group"]


class Road(Protocol):
    """Carries one boundary's flags, in the order of its micro-batches."""

    def tell(self, receiver: TunnelCodec) -> None:
        """Let the receiving codec give this road its word of leaves that nobody used."""

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        """Return the indices of such leaves of the next micro-batch's tunnel.

        ``gradient()`` gives the gradient of that tunnel.
        """

    def finish(self) -> None:
        """End a batch, of which all words were taken."""

    def close(self) -> None:
        """Forget words that were not taken."""


class InOneProcess:
    """Carries the flags of a boundary between two stages of this rank."""

    def __init__(self) -> None:
        self.posted: deque[list[int]] = deque()

    def tell(self, receiver: TunnelCodec) -> None:
        """Keep the words of this codec."""
        receiver.note_unused = lambda unused, tunnel: self.posted.append(unused)

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        """Return the next word."""
        return self.posted.popleft()

    def finish(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Forget words that were not taken."""
        self.posted.clear()


class InGradients:
    """Carries flags in gradients, where those lie in memory of the host."""

    def tell(self, receiver: TunnelCodec) -> None:
        """Let this codec mark its gradients."""
        receiver.mark_unused = True

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        """Read the gradient."""
        return tunnel.unused(gradient())

    def finish(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Nothing is kept."""


class InMessages:
    """Carries the flags of a boundary to another rank, in messages from host to host.

    One end is the ``sender``, the other the ``receiver``. ``chunk`` is the micro-batch whose
    backward pass begins next.
    """

    def __init__(self, sender: ChunkSender | None, receiver: ChunkReceiver | None) -> None:
        self._sender, self._receiver = sender, receiver
        self.chunk = 0

    def tell(self, receiver: TunnelCodec) -> None:
        """Send the words of this codec."""
        receiver.note_unused = self._post

    def _post(self, unused: list[int], tunnel: _C.Tunnel) -> None:
        if self._sender is None:
            raise bug("word of unused leaves at the end that receives it")
        self._sender.post(self.chunk, struct.pack(f"<{len(unused)}Q", *unused))

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        """Receive the next word, and wait for it."""
        if self._receiver is None:
            raise bug("word of unused leaves is taken at the end that sends it")
        word = self._receiver.take(self.chunk)
        return struct.unpack(f"<{len(word) // 8}Q", word)

    def finish(self) -> None:
        """Whoever opened the roads waits for their messages."""

    def close(self) -> None:
        """Nothing is kept."""


def across_ranks(opened: BoundaryRoads, boundary: int) -> Road:
    """Return the road of flags between two ranks: one that was opened, or gradients."""
    ends = opened.backward_senders.get(boundary), opened.backward_receivers.get(boundary)
    return InGradients() if ends == (None, None) else InMessages(*ends)


def host_group() -> Any:
    """Return a function that gives a group whose messages lie on the CPU; a collective call."""
    try:
        dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    except RuntimeError:
        # By its name: a rank that fails drops its groups, and so closes their connections.
        name = dist.new_group(backend="gloo").group_name
        return lambda: distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined]
    return lambda: None
