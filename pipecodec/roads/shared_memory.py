"""Roads between two processes of a machine: a ring in memory that both have mapped.

The memory has no name in the file system. A receiver opens it as a file of the sender's process;
where it cannot, the two are on different machines, or apart for another reason, such as containers.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .. import _C
from .ends import ERRORS, Buffer, End

__all__ = ["Offer", "RingReceiver", "RingSender"]

_CAPACITY = 1 << 20
"""Bytes of a ring. Pages that no message ever lay in take no memory."""

_MOST = 1 << 26
"""Bytes of messages for which a ring has no room yet, and which are kept for it."""


class Offer(NamedTuple):
    """Where a receiver finds a ring, and how it knows that it is the right one."""

    process: int
    file: int
    secret: int


class RingSender(End):
    """The writing end, of which the other process gets the ``offer``."""

    def __init__(self, name: str, peer: int, timeout: float) -> None:
        self._ring = _C.RingWriter(_CAPACITY, _MOST)
        self._timeout = timeout
        self.offer = Offer(os.getpid(), self._ring.file, self._ring.secret)
        super().__init__(name, peer)

    @property
    def posted(self) -> int:
        """Bytes up to the end of the last message."""
        return self._ring.posted

    def connect(self, process: tuple[int, int]) -> None:
        """Know the process that reads, as its ``_C.this_process()``, so that its end is noticed."""
        self._ring.connect(*process)

    def post(self, *parts: Buffer) -> None:
        """Send one message."""
        try:
            self._ring.post(self._timeout, *parts)
        except ERRORS as error:
            raise self.named(error, self._timeout) from None

    def wait_taken(self, mark: int) -> None:
        """Wait until the receiver has taken the messages up to ``mark``."""
        try:
            self._ring.wait_taken(mark, self._timeout)
        except ERRORS as error:
            raise self.named(error, self._timeout) from None

    def finish(self) -> None:
        """Wait until the ring holds all messages; it stays readable when this process has ended."""
        try:
            self._ring.flush(self._timeout)
        except ERRORS as error:
            raise self.named(error, self._timeout) from None

    def shut(self) -> None:
        """End the road."""
        self._ring.shut()


class RingReceiver(End):
    """The reading end. ``FileNotFoundError``: the offered ring is not on this machine."""

    def __init__(self, name: str, peer: int, timeout: float, offer: Offer) -> None:
        self._ring = _C.RingReader(*offer)
        self._timeout = timeout
        super().__init__(name, peer)

    @property
    def taken(self) -> int:
        """Messages that were begun, interrupted or not."""
        return self._ring.taken

    def take(self) -> bytearray:
        """Wait for the next message."""
        try:
            return self._ring.take(self._timeout)
        except ERRORS as error:
            raise self.named(error, self._timeout) from None

    def shut(self) -> None:
        """End the road."""
        self._ring.shut()
