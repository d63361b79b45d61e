"""Roads between machines: messages of a process group whose tensors lie on the CPU."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from .ends import Buffer, End

__all__ = ["FIRST_TAG", "MessageReceiver", "MessageSender", "wait_once"]

FIRST_TAG = 0x70635200
"""Tag of the first road's messages, unlike those of engines in the same group."""

_HEAD = struct.Struct("<QQ")
"""Size and number of a message, in front of it."""

_FIRST = 1024
"""Bytes of the first part of a message, which has one size: Gloo needs to know it beforehand."""

_PENDING = 256
"""Messages on their way before one is waited for: Gloo keeps each until the peer takes it."""


def wait_once(work: Any) -> None:
    """Wait for a send, also after an interrupt: Gloo would wait for another one the second time."""
    if not work.is_completed():
        work.wait()


class _MessageEnd(End):
    """Either end; ``group()`` is the process group, and ``tag`` this road's own in it."""

    def __init__(self, name: str, peer: int, group: Callable[[], Any], tag: int) -> None:
        super().__init__(name, peer)
        self._group, self._tag = group, tag
        self._ended, self._process = False, os.getpid()

    def shut(self) -> None:
        """End the road; a thread that waits in Gloo wakes when its connections are shut."""
        self._ended = True

    def _check(self) -> None:
        """Raise the error of an end that is of no use any more, or of no use in this process."""
        if self._ended:
            raise ConnectionError(f"{self.name}, rank {self.peer}: this side was shut")
        if self._process != os.getpid():
            raise RuntimeError(
                f"{self.name}, rank {self.peer}: it belongs to the process that forked this one"
            )


class MessageSender(_MessageEnd):
    """The sending end."""

    def __init__(self, name: str, peer: int, group: Callable[[], Any], tag: int) -> None:
        super().__init__(name, peer, group, tag)
        self._sending: deque[list[tuple[Any, torch.Tensor]]] = deque()
        self.posted = 0

    def post(self, *parts: Buffer) -> None:
        """Send one message."""
        self._check()
        views = [memoryview(part).cast("B") for part in parts]
        message = bytearray(_HEAD.pack(sum(map(len, views)), self.posted))
        for each in views:
            message += each
        self.posted += 1
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

    def wait_taken(self, mark: int) -> None:
        """Return: Gloo tells of a message only to one who waits, and cannot be left then."""

    def finish(self) -> None:
        """Wait until the peer has taken all messages."""
        while self._sending:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        for work, _ in self._sending[0]:
            wait_once(work)
        self._sending.popleft()

    def leave(self) -> object:
        """Return the messages on their way: they are sent for as long as the result is kept."""
        return list(self._sending)

    def shut(self) -> None:
        """Send nothing more, and forget messages on their way: they would keep connections open."""
        super().shut()
        self._sending.clear()


class MessageReceiver(_MessageEnd):
    """The receiving end."""

    def __init__(self, name: str, peer: int, group: Callable[[], Any], tag: int) -> None:
        super().__init__(name, peer, group, tag)
        self.taken = 0

    def take(self) -> bytearray:
        """Wait for the next message."""
        self._check()
        expected = self.taken
        self.taken += 1
        first = self._receive(_FIRST)
        size, number = _HEAD.unpack_from(first)
        if number != expected:
            raise ConnectionError(
                f"{self.name}, rank {self.peer}: message {number} came in the place of {expected}"
            )
        del first[: _HEAD.size]
        if size <= len(first):
            del first[size:]
            return first
        return first + self._receive(size - len(first))

    def _receive(self, size: int) -> bytearray:
        part = bytearray(size)
        dist.recv(torch.frombuffer(part, dtype=torch.uint8), self.peer, self._group(), self._tag)
        return part
