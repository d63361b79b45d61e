"""Batches of the first stage, packed as a boundary's values are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..codec import TunnelCodec
from ..options import BoundaryOptions

__all__ = ["PackedBatches"]


class PackedBatches:
    """Packs batches for stage 0.

    ``names`` are those of a batch's values, in order; ``codec`` is the stage's incoming one.
    """

    def __init__(self, names: Sequence[str]) -> None:
        # The engine's configuration has no say in a batch's sizes, and no gradient leaves it.
        self.codec = TunnelCodec.of(BoundaryOptions(differentiable=(), dynamic_shape=True), "batch")
        self.codec.names = self.names = list(names)

    def pack(self, values: tuple[object, ...]) -> tuple[torch.Tensor, ...]:
        """Return the tensors of a batch with these values."""
        with torch.no_grad():  # the engine detaches a batch, whatever made it
            return self.codec.pack(values)
