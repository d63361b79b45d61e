"""Tensors on their way from one rank to another, through a group's backend."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, ClassVar

import torch.distributed as dist
from torch import Tensor

from .groups import faults

__all__ = ["Handle", "OnTheirWay", "Orders"]

MOST = 256
"""Sends that nobody waited for before one is: their tensors are kept until then."""


class Handle:
    """A value that was handed to a channel by ``isend``."""

    def __init__(self, where: str, works: Sequence[Any] = (), tensors: Sequence[Tensor] = ()):
        self._where = where
        self._works, self._tensors = list(works), list(tensors)

    def wait(self) -> None:
        """Wait until the value's tensors may be written to.

        On the CPU the host waits, on other devices the current stream does, as with ``wait`` of
        torch's own works. Raises ``ConnectionError`` or ``TimeoutError`` where they cannot be sent.
        """
        try:
            for work in self._works:
                work.wait()
        except RuntimeError as error:
            raise faults(self._where, error) from None
        self._works.clear()
        self._tensors.clear()

    @property
    def waited(self) -> bool:
        """Whether ``wait`` returned, or there was nothing to wait for."""
        return not self._works


class OnTheirWay:
    """Handles that nobody waited for yet: a send whose work is dropped may never happen."""

    def __init__(self) -> None:
        self._handles: deque[Handle] = deque()

    def add(self, handle: Handle) -> None:
        """Keep a handle; waits for the oldest one where there are too many."""
        handles = self._handles
        while handles and (handles[0].waited or len(handles) >= MOST):
            handles.popleft().wait()
        if not handle.waited:
            handles.append(handle)

    def wait(self) -> None:
        """Wait for all of them."""
        while self._handles:
            self._handles.popleft().wait()

    def forget(self) -> None:
        """Give them up, after an error."""
        self._handles.clear()


class Orders:
    """Counts the tensors that went to and came from each rank over a group without tags.

    A backend of devices matches sends and receives by their order alone.
    """

    _groups: ClassVar[weakref.WeakKeyDictionary[Any, tuple[Counter[int], Counter[int]]]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, group: Any, peer: int) -> None:
        self._sent, self._received = self._groups.setdefault(group, (Counter(), Counter()))
        self._peer = peer

    @property
    def next(self) -> int:
        """The number of the next tensor to be sent."""
        return self._sent[self._peer]

    def sent(self, count: int) -> None:
        """Count tensors that were sent."""
        self._sent[self._peer] += count

    def receiving(self, order: int, count: int) -> None:
        """Count tensors about to be received; ``RuntimeError`` unless they are the next ones."""
        expected = self._received[self._peer]
        if order != expected:
            raise RuntimeError(
                f"these tensors are number {order} between the devices of rank {self._peer} and "
                f"rank {dist.get_rank()} in this group, and {expected} is the next one: receive "
                "from several channels in the order of their sends, or give each a group of its own"
            )
        self._received[self._peer] += count
