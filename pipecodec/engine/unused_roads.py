"""Which leaves of a boundary nobody used: from the rank that ran backward to the one that will.

Where messages lie on the CPU, the tunnel's gradient says it. On a device the host would have to
wait for that, so flags go from host to host, a few bytes for each boundary and micro-batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from .. import _C
from ..codec import TunnelCodec

__all__ = ["FIRST_TAG", "InGradients", "InMessages", "InOneProcess", "Road", "host_group"]

FIRST_TAG = 0x70636463
"""Tag of the first boundary's messages, unlike an engine's tags in the same group."""


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
    """Carries the flags of a boundary to another rank, in messages."""

    PENDING = 32
    """Messages that may be on their way before one is waited for; the peer takes each at once."""

    def __init__(self, peer: int, tag: int, group: Any) -> None:
        self.peer, self.tag, self.group = peer, tag, group
        self.sending: deque[tuple[Any, bytearray]] = deque()

    def tell(self, receiver: TunnelCodec) -> None:
        """Send the words of this codec."""
        receiver.note_unused = self._post

    def _post(self, unused: list[int], tunnel: _C.Tunnel) -> None:
        if len(self.sending) >= self.PENDING:
            self.sending.popleft()[0].wait()
        flags = _room(tunnel)
        for index in unused:
            flags[index] = 1
        message = torch.frombuffer(flags, dtype=torch.uint8)
        self.sending.append((dist.isend(message, self.peer, self.group(), self.tag), flags))

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        """Receive the next word, and wait for it."""
        flags = _room(tunnel)
        message = torch.frombuffer(flags, dtype=torch.uint8)
        dist.recv(message, self.peer, self.group(), self.tag)
        return [index for index, flag in enumerate(flags) if flag]

    def finish(self) -> None:
        """Wait for the messages of a batch, all taken before ranks meet at its end.

        torch's profiler writes down when each ends, and would do so in memory that it has freed if
        it was stopped before.
        """
        while self.sending:
            self.sending.popleft()[0].wait()

    def close(self) -> None:
        """Forget messages that were not taken: it would keep the connections of this rank open."""
        self.sending.clear()


def _room(tunnel: _C.Tunnel) -> bytearray:
    return bytearray(-(-len(tunnel) // 16) * 16)


def host_group() -> Any:
    """Return a function that gives a group whose messages lie on the CPU; a collective call."""
    try:
        dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    except RuntimeError:
        # By its name: a rank that fails drops its groups, and so closes their connections.
        name = dist.new_group(backend="gloo").group_name
        return lambda: distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined]
    return lambda: None
