"""Tells tensors that have no memory: those on meta, and fake ones."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["has_no_memory", "without_memory"]


def without_memory(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is on meta or fake, so that it has no values."""
    return tensor.is_meta or getattr(tensor, "fake_mode", None) is not None


def has_no_memory(model: nn.Module) -> bool:
    """Tell whether any parameter or buffer of the model has no values."""
    return any(map(without_memory, [*model.parameters(), *model.buffers()]))
