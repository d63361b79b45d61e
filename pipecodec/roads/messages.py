"""Roads between machines: messages of a process group whose tensors lie on the CPU."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from .ends import Buffer, End

__all__ = ["FIRST_TAG", "MessageReceiver", "MessageSender"]

FIRST_TAG = 0x70635200
"""Tag of the first road's messages, unlike those of engines in the same group."""

_HEAD = struct.Struct("<QQ")
"""Size and number of a message, in front of it."""

_FIRST = 1024
"""Bytes of the first part of a message, which has one size: Gloo needs to know it beforehand."""

_PENDING = 256
"""Messages on their way before one is waited for: Gloo keeps each until the peer takes it."""


class MessageSender(End):
    """The sending end; ``group()`` is the process group, and ``tag`` this road's own in it."""

    def __init__(self, name: str, peer: int, group: Callable[[], Any], tag: int) -> None:
        super().__init__(name, peer)
        self._group, self._tag = group, tag
        self._sending: deque[list[tuple[Any, torch.Tensor]]] = deque()
        self._number = 0
        self._ended = False

    def post(self, *parts: Buffer) -> None:
        """Send one message."""
        if self._ended:
            raise ConnectionError(f"{self.name}, rank {self.peer}: this side was shut")
        views = [memoryview(part).cast("B") for part in parts]
        message = bytearray(_HEAD.pack(sum(map(len, views)), self._number))
        for each in views:
            message += each
        self._number += 1
        message += bytes(max(0, _FIRST - len(message)))
        tensor = torch.frombuffer(message, dtype=torch.uint8)
        while len(self._sending) >= _PENDING:
            self._wait_for_oldest()
        works: list[tuple[Any, torch.Tensor]] = []
        self._sending.append(works)
        for part in (tensor[:_FIRST], tensor[_FIRST:]):
            if len(part) > 0:
                work = dist.isend(part, self.peer, self._group(), self._tag)
                works.append((work, part))

    def finish(self) -> None:
        """Wait until the peer has taken all messages."""
        while self._sending:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        for work, _ in self._sending.popleft():
            work.wait()

    def leave(self) -> object:
        """Return the messages on their way: they are sent for as long as the result is kept."""
        return list(self._sending)

    def shut(self) -> None:
        """Send nothing more, and forget messages on their way: they would keep connections open."""
        self._ended = True
        self._sending.clear()


class MessageReceiver(End):
    """The receiving end; see ``MessageSender``."""

    def __init__(self, name: str, peer: int, group: Callable[[], Any], tag: int) -> None:
        super().__init__(name, peer)
        self._group, self._tag = group, tag
        self._number = 0
        self._ended = False

    def take(self) -> bytearray:
        """Wait for the next message."""
        if self._ended:
            raise ConnectionError(f"{self.name}, rank {self.peer}: this side was shut")
        first = self._receive(_FIRST)
        size, number = _HEAD.unpack_from(first)
        if number != self._number:
            raise ConnectionError(
                f"{self.name}, rank {self.peer}: message {number} came in the place of "
                f"{self._number}"
            )
        self._number += 1
        del first[: _HEAD.size]
        if size <= len(first):
            del first[size:]
            return first
        return first + self._receive(size - len(first))

    def shut(self) -> None:
        """End the road; a thread that waits in Gloo wakes when its connections are shut."""
        self._ended = True

    def _receive(self, size: int) -> bytearray:
        part = bytearray(size)
        dist.recv(torch.frombuffer(part, dtype=torch.uint8), self.peer, self._group(), self._tag)
        return part
