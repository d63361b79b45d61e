"""Memory for received tensors, used again once the caller has dropped those of an earlier value.

Fresh memory of megabytes costs as much as the receive: the system clears each page of it.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from .. import _C

__all__ = ["LEAST_KEPT", "MOST_KEPT", "Memory"]

LEAST_KEPT = 1 << 20
"""Bytes of a tensor from which on its memory is kept; the allocator has others at hand."""

MOST_KEPT = 1 << 28
"""Bytes that are kept at most."""


class Memory:
    """Gives 1-D uint8 tensors of the CPU, and keeps the last large ones, 256 MiB at most."""

    def __init__(self) -> None:
        self._kept: deque[Tensor] = deque()
        self._bytes = 0

    def get(self, size: int) -> Tensor:
        """Return a tensor of ``size`` bytes that shares memory with none in use."""
        if not LEAST_KEPT <= size <= MOST_KEPT:
            return torch.empty(size, dtype=torch.uint8, device="cpu")
        found = next((t for t in self._kept if len(t) == size and _C.use_count(t) == 1), None)
        if found is not None:
            self._forget(found)
        else:
            found = torch.empty(size, dtype=torch.uint8, device="cpu")
        self._kept.append(found)
        self._bytes += size
        while self._bytes > MOST_KEPT:
            self._forget(self._kept[0])
        return found.detach()  # another tensor over this memory, which counts as a use of it

    def _forget(self, tensor: Tensor) -> None:
        place = next(i for i, each in enumerate(self._kept) if each is tensor)
        del self._kept[place]
        self._bytes -= len(tensor)
