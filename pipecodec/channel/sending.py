"""Tensors on their way from one rank to another, through a group's backend."""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, ClassVar

import torch.distributed as dist
from torch import Tensor

from ..roads.messages import wait_once
from .groups import faults

__all__ = ["Handle", "OnTheirWay", "Orders"]

MOST = 256
"""Sends that nobody waited for before one is: their tensors are kept until then."""


class Handle:
    """A value that was handed to a channel by ``isend``."""

    def __init__(self, where: str, announced: Callable[[], None] | None = None):
        """``announced`` waits until the peer is about to receive the tensors, which Gloo cannot."""
        self._where, self._announced = where, announced
        self._sent: list[tuple[Any, Tensor]] = []
        self._fault: Exception | None = None
        self._waiting = threading.Lock()  # Gloo lets one thread alone know that a send has ended

    def send(self, tensor: Tensor, peer: int, group: Any, tag: int) -> None:
        """Begin to send one of the value's tensors, which is kept until it has left."""
        self._sent.append((dist.isend(tensor, peer, group, tag), tensor))

    def wait(self) -> None:
        """Wait until the value's tensors may be written to.

        On the CPU the host waits, on other devices the current stream does, as with ``wait`` of
        torch's own works. Raises ``ConnectionError`` or ``TimeoutError`` where they cannot be sent.
        """
        with self._waiting:
            if self._fault is not None:
                raise self._fault
            if self._sent and self._announced is not None:
                try:
                    self._announced()
                except TimeoutError as error:
                    raise TimeoutError(
                        f"{error}; where both ranks send large tensors before they receive, "
                        f"use isend"
                    ) from None
                except (OSError, RuntimeError) as error:
                    raise faults(self._where, error) from None
            try:
                for work, _ in self._sent:
                    wait_once(work)
            except RuntimeError as error:
                self._fault = faults(self._where, error)
                raise self._fault from None
            self._sent.clear()

    @property
    def waited(self) -> bool:
        """Whether ``wait`` returned, or there was nothing to wait for."""
        return not self._sent


class OnTheirWay:
    """Handles that nobody waited for yet: a send whose work is dropped may never happen."""

    def __init__(self) -> None:
        self._handles: deque[Handle] = deque()

    def make_room(self) -> None:
        """Wait for the oldest one where there are too many."""
        handles = self._handles
        while handles and (handles[0].waited or len(handles) >= MOST):
            handles[0].wait()
            handles.popleft()

    def add(self, handle: Handle) -> None:
        """Keep a handle."""
        self._handles.append(handle)

    def wait(self) -> None:
        """Wait for all of them."""
        while self._handles:
            self._handles[0].wait()
            self._handles.popleft()

    def leave(self) -> list[Handle]:
        """Give them away: they are sent for as long as the result is kept."""
        left = [handle for handle in self._handles if not handle.waited]
        self._handles.clear()
        return left


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
