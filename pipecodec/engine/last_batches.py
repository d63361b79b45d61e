"""Batches of the last stage, of which it takes some inputs itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .packed_batches import PackedBatches

__all__ = ["LastBatches", "PackedInputs"]


class PackedInputs(NamedTuple):
    """The inputs that the last stage takes from one micro-batch, on its device."""

    tensors: tuple[torch.Tensor, ...]
    frame: torch.Tensor | None
    """The last of the tensors on the host, if it was packed there."""


class LastBatches:
    """Packs and unpacks the inputs ``names`` of the last stage's batches, as those of stage 0.

    So a value is the same wherever it is taken: its types, its place on the device, and that the
    stage may write into it, also when it is recomputed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._batches = PackedBatches(names)
        self._taken: PackedInputs | None = None

    def pack(self, by_name: Mapping[str, Any], device: torch.device) -> PackedInputs:
        """Return the inputs of a batch whose values are ``by_name``, for ``take``."""
        packed = self._batches.pack(tuple(by_name[name] for name in self._names))
        frame = packed[-1] if packed[-1].is_cpu else None
        return PackedInputs(tuple(t.to(device, copy=True) for t in packed), frame)

    def take(self, packed: PackedInputs | None) -> None:
        """Give the stage's next forwards the inputs of this micro-batch; None: of no batch."""
        self._taken = packed

    def values(self, recomputes: bool) -> dict[str, Any]:
        """Return the inputs of the micro-batch that was taken, by name."""
        if self._taken is None:
            return {}
        tensors, frame = self._taken
        values, _ = self._batches.codec.receive(tensors, not recomputes, frame)
        return dict(zip(self._names, values, strict=True))
