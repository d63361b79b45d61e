"""Tells tensors that have no memory, those on meta and fake ones, and runs models of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from .fake import FakeRun

__all__ = ["has_no_memory", "run_model", "without_memory"]

Result = TypeVar("Result")


def without_memory(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is on meta or fake, so that it has no values."""
    return tensor.is_meta or getattr(tensor, "fake_mode", None) is not None


def has_no_memory(model: nn.Module) -> bool:
    """Tell whether any parameter or buffer of the model has no values."""
    return any(map(without_memory, [*model.parameters(), *model.buffers()]))


def run_model(model: nn.Module, observe: Callable[[FakeRun | None], Result]) -> Result:
    """Return ``observe(None)``, or the result of :func:`.fake.run_fake` for a model without memory.

    torch's fake tensors are imported only there: that takes longer than all of this package.
    """
    if not has_no_memory(model):
        return observe(None)
    from .fake import run_fake

    return run_fake(model, observe)
