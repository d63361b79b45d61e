"""Opens the roads of a pipeline's boundaries, whose messages are found by their micro-batch."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist

from ..roads import Receiver, Sender, Wanted, open_roads, timeout_of
from .together import gathered

__all__ = ["BoundaryRoads", "ChunkReceiver", "ChunkSender", "open_boundaries"]

_CHUNK = struct.Struct("<Q")

SHARED_MEMORY = True
"""Whether roads may be shared memory; tests take the other way too."""


class ChunkSender:
    """Sends messages, each of a micro-batch."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.finish = sender.finish

    def post(self, chunk: int, *parts: bytes | bytearray | memoryview) -> None:
        """Send a message of micro-batch ``chunk``, without waiting."""
        self._sender.post(_CHUNK.pack(chunk), *parts)


class ChunkReceiver:
    """Receives messages in whatever order their micro-batches are asked for.

    A schedule may run micro-batches in another order on one stage than on the next.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._early: dict[int, deque[bytearray]] = {}

    def take(self, chunk: int) -> bytearray:
        """Wait for the next message of micro-batch ``chunk``, and return it."""
        early = self._early.get(chunk)
        if early:
            return early.popleft()
        while True:
            message = self._receiver.take()
            (of,) = _CHUNK.unpack_from(message)
            del message[: _CHUNK.size]
            if of == chunk:
                return message
            self._early.setdefault(of, deque()).append(message)


class BoundaryRoads(NamedTuple):
    """The ends of this rank's roads, by their boundary: boundary *b* is before stage *b*.

    A road forward begins at stage *b - 1*, one backward at stage *b*.
    """

    forward_senders: dict[int, ChunkSender]
    forward_receivers: dict[int, ChunkReceiver]
    backward_senders: dict[int, ChunkSender]
    backward_receivers: dict[int, ChunkReceiver]

    def finish(self) -> None:
        """Wait until all messages have left, at the end of a batch in which all were taken.

        torch's profiler writes down when each message of a group ends, and would do so in memory
        that it has freed if it was stopped before.
        """
        for sender in (*self.forward_senders.values(), *self.backward_senders.values()):
            sender.finish()


def open_boundaries(
    owners: Sequence[int],
    group: Any,
    host: Callable[[], Any],
    *,
    forward: bool,
    backward: bool,
) -> BoundaryRoads:
    """Open roads over the boundaries between this rank's stages and others'; a collective call.

    ``owners`` are the ranks of all stages of this rank's pipeline, ``group`` the ranks that call
    it, None: all. ``host()`` gives a process group with messages on the CPU.
    """
    own = dist.get_rank()
    sending: list[tuple[int, bool, Wanted]] = []
    receiving: list[tuple[int, bool, Wanted]] = []
    for boundary in range(1, len(owners)):
        before, after = owners[boundary - 1], owners[boundary]
        if own not in (before, after) or before == after:
            continue
        name = f"boundary {boundary - 1}→{boundary}"
        peer = after if own == before else before
        if forward:
            (sending if own == before else receiving).append((boundary, True, Wanted(name, peer)))
        if backward:
            wanted = Wanted(f"{name}, backward", peer)
            (sending if own == after else receiving).append((boundary, False, wanted))
    senders, receivers = open_roads(
        [wanted for *_, wanted in sending],
        [wanted for *_, wanted in receiving],
        lambda value: gathered(group, value),
        host,
        timeout=timeout_of(),
        shared_memory=SHARED_MEMORY,
    )
    opened = BoundaryRoads({}, {}, {}, {})
    for (boundary, onward, _), sender in zip(sending, senders, strict=True):
        ends = opened.forward_senders if onward else opened.backward_senders
        ends[boundary] = ChunkSender(sender)
    for (boundary, onward, _), receiver in zip(receiving, receivers, strict=True):
        takers = opened.forward_receivers if onward else opened.backward_receivers
        takers[boundary] = ChunkReceiver(receiver)
    return opened
