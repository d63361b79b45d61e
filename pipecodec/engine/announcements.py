"""The sizes and the frame of a boundary's tensors, said from host to host before they are sent."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .boundary_roads import ChunkReceiver, ChunkSender

__all__ = ["Announced", "AnnouncementsIn", "AnnouncementsOut"]

_HEAD = struct.Struct("<Q")


class Announced(NamedTuple):
    """The tensors of one micro-batch: a tunnel, slots and a frame.

    ``sizes`` are their numbers of elements; ``frame`` is a copy of the frame on the CPU, without
    the bytes of leaves that lie on a device, or None where it was not said.
    """

    sizes: tuple[int, ...]
    frame: torch.Tensor | None

    def tensors(self, device: torch.device) -> list[torch.Tensor]:
        """Return memory for them."""
        first, *others = self.sizes
        return [
            torch.empty(first, device=device),
            *(torch.empty(size, dtype=torch.uint8, device=device) for size in others),
        ]


class AnnouncementsOut:
    """Says the tensors of a boundary's micro-batches; ``chunk`` is the number of the next one."""

    def __init__(self, road: ChunkSender) -> None:
        self._road = road
        self.chunk = 0

    def say(self, tensors: Sequence[torch.Tensor], frame: bytes = b"") -> None:
        """Say the sizes of these tensors, and their frame, without waiting."""
        sizes = [tensor.numel() for tensor in tensors]
        head = struct.pack(f"<{len(sizes) + 1}Q", len(sizes), *sizes)
        self._road.post(self.chunk, head, frame)


class AnnouncementsIn:
    """Is told them."""

    def __init__(self, road: ChunkReceiver) -> None:
        self._road = road

    def take(self, chunk: int = 0) -> Announced:
        """Wait until the other host says the next tensors of micro-batch ``chunk``."""
        message = self._road.take(chunk)
        (count,) = _HEAD.unpack_from(message)
        sizes = struct.unpack_from(f"<{count}Q", message, _HEAD.size)
        begin = _HEAD.size * (count + 1)
        if len(message) == begin:
            return Announced(sizes, None)
        message += bytes(sizes[-1] + begin - len(message))  # a device's leaves, and padding
        return Announced(sizes, torch.frombuffer(message, dtype=torch.uint8, offset=begin))
