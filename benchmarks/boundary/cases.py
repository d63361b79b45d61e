"""The values that cross: a hidden state, alone or with other values that decoder layers pass on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["COUNTED", "HIDDEN_BYTES", "STORED", "TIMED", "Case"]

Tensors = tuple[Tensor, ...]

HIDDEN_BYTES = 64 * 2**20
SMALL, WIDE, LARGE = (4, 8), (1024, 1024), (2048, 8192)


@dataclass(frozen=True)
class Case:
    """One value that crosses.

    ``tensors(hidden)`` makes the tensors beside the hidden state; by hand only these cross with
    it. ``give(hidden, tensors)`` makes the value that a stage would rather return, ``take`` the
    tensors from it again. With ``origin`` False the origin's algorithm is left out.
    """

    name: str
    shape: tuple[int, ...] = SMALL
    dtype: torch.dtype = torch.float32
    tensors: Callable[[Tensor], Tensors] = lambda hidden: ()
    give: Callable[[Tensor, Tensors], Any] = lambda hidden, tensors: hidden
    take: Callable[[Any], tuple[Tensor, Tensors]] = lambda value: (value, ())
    origin: bool = True

    @property
    def hidden_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _mask(hidden: Tensor) -> Tensors:
    return (torch.ones(8, dtype=torch.bool),)


def _large_mask(hidden: Tensor) -> Tensors:
    return (torch.ones(4097, dtype=torch.bool),)


def _pairs(hidden: Tensor) -> Tensors:
    return tuple(hidden[i % 4] * (i + 1) for i in range(48))


def _masks(hidden: Tensor) -> Tensors:
    return tuple(torch.ones(4, dtype=torch.bool) for _ in range(40))


def _wide_mask(hidden: Tensor) -> Tensors:
    return (torch.ones(hidden.nbytes, dtype=torch.bool),)


def _half(hidden: Tensor) -> Tensors:
    return (hidden[: len(hidden) // 2] * 2,)


def _scalars(hidden: Tensor, tensors: Tensors) -> Any:
    return hidden, tensors[0], None, 7, True


def _nested(hidden: Tensor, tensors: Tensors) -> Any:
    return hidden, tuple(zip(tensors[::2], tensors[1::2], strict=True))


def _flat(value: Any) -> tuple[Tensor, Tensors]:
    return value[0], tuple(tensor for pair in value[1] for tensor in pair)


def _beside(hidden: Tensor, tensors: Tensors) -> Any:
    return hidden, *tensors


def _apart(value: Any) -> tuple[Tensor, Tensors]:
    return value[0], value[1:]


TIMED = (
    Case("hidden [4, 8] float32", origin=False),
    Case("hidden [4, 8] float32, bool mask, None, int, bool", tensors=_mask, give=_scalars,
         take=lambda value: (value[0], value[1:2])),
    Case("hidden 64 MB float32", LARGE, origin=False),
    Case("hidden 64 MB bf16", (4096, 8192), torch.bfloat16, origin=False),
)  # fmt: skip
"""For these the time is measured."""

COUNTED = (
    Case("hidden"),
    TIMED[1],
    Case("hidden, mask of 4097 bytes", tensors=_large_mask, give=_beside, take=_apart),
    Case("hidden, 40 masks of 4 bytes", tensors=_masks, give=_beside, take=_apart),
    Case("hidden, 24 (key, value) with gradients", tensors=_pairs, give=_nested, take=_flat),
)
"""For these messages and waits are counted."""

STORED = (
    Case("4 MiB float32", WIDE),
    Case("4 MiB bf16", (1024, 2048), torch.bfloat16),
    Case("4 + 2 MiB float32", WIDE, tensors=_half, give=_beside, take=_apart),
    Case("4 MiB float32, 4 MiB mask", WIDE, tensors=_wide_mask, give=_beside, take=_apart),
)
"""For these the bytes allocated are counted; a larger value has as many times more."""
