"""Compares the batches of the first and the last stage where the last one takes inputs of its own.

Each adds a checksum of these inputs to numbers that all ranks sum up anyway once a batch, so that
the comparison costs no message. A pair of stages adds two numbers that cancel each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..stages.stage import Absent
from ..stages.value_state import IMMUTABLE

__all__ = ["SameBatches"]

_SAMPLES = 4096
"""Elements of a tensor that a checksum looks at; other micro-batches differ in more than few."""

_NUMBERS = 4
"""Numbers of an input: held by first stages, by last ones, not comparable, sum of checksums."""


class SameBatches:
    """Compares the inputs ``names`` of one batch between the first and the last stage.

    ``sign`` is 1 on a rank of the first stage, -1 on one of the last, 0 on any other; ``pipeline``
    counts the pipelines. An input on a device other than the CPU is not compared, since the host
    would have to wait for it.
    """

    def __init__(self, names: Sequence[str], sign: int, pipeline: int) -> None:
        self._names = list(names)
        self._sign = sign
        self._factor = 2 * pipeline + 1  # replicas with exchanged batches do not cancel each other
        self.start()

    def start(self) -> None:
        """Forget the micro-batches of the last batch."""
        self._sums: dict[str, int | None] = {}
        self._held = dict.fromkeys(self._names, False)

    def note(self, by_name: Mapping[str, Any]) -> None:
        """Add the inputs of the next micro-batch."""
        for name in self._names:
            value = by_name[name]
            if value is Absent.ABSENT:
                continue
            self._held[name] = True
            total = self._sums.get(name, 0)
            self._sums[name] = None if total is None else _checksum(value, total)

    def numbers(self) -> list[int]:
        """Return this rank's numbers of the batch, for the sum over all ranks."""
        found: list[int] = []
        for name in self._names:
            held, total = self._held[name], self._sums.get(name)
            incomparable = held and total is None
            signed = self._sign * self._factor * (total or 0)
            found += [held and self._sign > 0, held and self._sign < 0, incomparable, signed]
        return found

    def problem(self, sums: Sequence[int]) -> str | None:
        """Return the difference that the sums of all ranks' numbers show, if there is one."""
        for index, name in enumerate(self._names):
            first, last, incomparable, total = sums[index * _NUMBERS : (index + 1) * _NUMBERS]
            if first > last:
                found = "lacks, while the batch of the first rank has it"
            elif first == last and not incomparable and total:
                found = "has with another value than the batch of the first rank"
            else:
                continue
            return (
                f"the last stage takes {name!r} from the batch of its own rank, which it {found}; "
                f"give the first and the last rank of a pipeline the same micro-batches in the "
                f"same order, as with one seed for shuffling"
            )
        return None


def _checksum(value: Any, total: int) -> int | None:
    """Return ``total`` with the value in it, a number of 32 bits; None if it cannot be had."""
    leaves, _ = pytree.tree_flatten(value)
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            if not leaf.is_cpu or leaf.layout is not torch.strided or leaf.is_quantized:
                return None
            total = zlib.crc32(f"{leaf.dtype}{list(leaf.shape)}".encode(), total)
            total = zlib.crc32(_sampled(leaf), total)
        elif isinstance(leaf, IMMUTABLE):
            total = zlib.crc32(repr(leaf).encode(), total)
        else:
            return None
    return total


def _sampled(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    if flat.numel() > _SAMPLES:
        flat = flat[:: flat.numel() // _SAMPLES | 1]
    return flat.contiguous().view(torch.uint8).numpy()
