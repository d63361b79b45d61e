"""Batches of the first stage, packed as a boundary's values are."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from ..codec import TunnelCodec
from ..options import BoundaryOptions

__all__ = ["PackedBatches"]


class PackedBatches:
    """Packs batches for stage 0, which takes each once and in order.

    ``names`` are those of a batch's values, in order; ``codec`` is the stage's incoming one.
    """

    def __init__(self, names: Sequence[str]) -> None:
        # The engine's configuration has no say in a batch's sizes, and no gradient leaves it.
        self.codec = TunnelCodec.of(BoundaryOptions(differentiable=(), dynamic_shape=True), "batch")
        self.codec.names = self.names = list(names)
        self._frames: deque[torch.Tensor] = deque()

    def pack(self, values: tuple[object, ...], recomputes: bool) -> tuple[torch.Tensor, ...]:
        """Return the tensors of a batch with these values; ``recomputes``: it is taken twice."""
        with torch.no_grad():  # the engine detaches a batch, whatever made it
            tensors = self.codec.pack(values)
        if tensors[-1].is_cpu and not recomputes:
            self._frames.append(tensors[-1])  # and is not read from the device again
        return tensors

    def next_frame(self) -> torch.Tensor | None:
        """Return the frame of the batch that is taken next, if it is known."""
        return self._frames.popleft() if self._frames else None

    def clear(self) -> None:
        """Forget batches that were packed and not taken."""
        self._frames.clear()
