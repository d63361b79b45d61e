"""The sizes of a boundary's tensors, which travel ahead of them from host to host."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Announcements"]

_TAG = 0x70637A00
"""Tag of the first boundary's messages, unlike torch's and those of other words in the group."""

_MOST_TENSORS = 80
"""More than a codec's tunnel, slots and frame are."""

_PENDING = 32
"""Messages whose memory is kept; the peer takes each before the tensors that follow it."""


class Announcements:
    """Says, or is told, how large the tensors are that cross a boundary next.

    ``group`` has both ranks, with messages on the CPU; ``peer`` is the other one.
    """

    def __init__(self, boundary: int, peer: int, group: Any) -> None:
        self._tag, self._peer, self._group = _TAG + boundary, peer, group
        self._sending: deque[tuple[Any, torch.Tensor]] = deque(maxlen=_PENDING)

    def send(self, tensors: Sequence[torch.Tensor]) -> None:
        """Say the sizes of these tensors, without waiting."""
        sizes = [len(tensors), *(tensor.numel() for tensor in tensors)]
        message = torch.zeros(_MOST_TENSORS, dtype=torch.int64)
        message[: len(sizes)] = torch.tensor(sizes)
        work = dist.isend(message, self._peer, self._group, self._tag)
        self._sending.append((work, message))

    def expect(self) -> Expected:
        """Begin to receive the next sizes."""
        message = torch.empty(_MOST_TENSORS, dtype=torch.int64)
        return Expected(dist.irecv(message, self._peer, self._group, self._tag), message)


class Expected:
    """Sizes on their way."""

    def __init__(self, work: Any, message: torch.Tensor) -> None:
        self._work, self._message = work, message

    def tensors(self, device: torch.device) -> list[torch.Tensor]:
        """Wait for the sizes, and return memory for such tensors: a tunnel, slots and a frame."""
        self._work.wait()
        count, *sizes = self._message.tolist()
        first, *others = sizes[:count]
        return [
            torch.empty(first, device=device),
            *(torch.empty(size, dtype=torch.uint8, device=device) for size in others),
        ]
