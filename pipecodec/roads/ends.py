"""The two ends of a road, whatever carries its messages."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import Protocol

__all__ = ["ERRORS", "Buffer", "End", "Receiver", "Sender", "shut_all"]

Buffer = bytes | bytearray | memoryview

ERRORS = (ConnectionError, TimeoutError, RuntimeError)
"""Errors of an end, which get its name."""

_open: weakref.WeakSet[End] = weakref.WeakSet()


class Sender(Protocol):
    """The end that messages enter."""

    @property
    def posted(self) -> int:
        """A number that grows with each message: after an interrupt it tells of the last one."""

    def post(self, *parts: Buffer) -> None:
        """Send one message, the parts behind each other. They are copied; nobody is waited for.

        Raises ``ConnectionError`` where nobody will receive it, ``TimeoutError`` where the receiver
        took nothing for so long that there is no more room, and ``RuntimeError`` in a process that
        was forked from the one that opened the road.
        """

    def wait_taken(self, mark: int) -> None:
        """Wait until the receiver has taken the messages up to ``mark``, which was ``posted``.

        Returns at once where the road cannot tell. Raises ``ConnectionError`` where the receiver
        never will, and ``TimeoutError`` where it has not.
        """

    def finish(self) -> None:
        """Wait until all messages have left this process, which may end then.

        Raises ``ConnectionError`` where some never will, and ``TimeoutError`` where they have not.
        """

    def shut(self) -> None:
        """End the road: nothing is sent any more."""


class Receiver(Protocol):
    """The end that messages leave, in the order in which they entered."""

    @property
    def taken(self) -> int:
        """A number that grows when ``take`` begins to take a message, interrupted or not."""

    def take(self) -> bytearray:
        """Wait for the next message, and return it.

        Raises ``ConnectionError`` where none will come, and ``TimeoutError`` where none came.
        """

    def shut(self) -> None:
        """End the road: whoever waits for a message in this process gets a ``ConnectionError``."""


class End(ABC):
    """One end of a road, which ``shut_all`` shuts. ``name`` and ``peer`` stand in messages."""

    def __init__(self, name: str, peer: int) -> None:
        self.name, self.peer = name, peer
        _open.add(self)

    @abstractmethod
    def shut(self) -> None:
        """End the road."""

    def named(self, error: Exception, timeout: float) -> Exception:
        """Return an error that says which road it is of; that of a signal's handler as it is."""
        if type(error) not in ERRORS:
            return error
        late = f" in {timeout:g} s" if isinstance(error, TimeoutError) else ""
        return type(error)(f"{self.name}, rank {self.peer}: {error}{late}")


def shut_all() -> None:
    """Shut all ends in this process, as where communication ends after an error."""
    for end in list(_open):
        end.shut()
