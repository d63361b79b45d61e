"""Observes a model as it is, or as fake tensors where it has no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from ..no_memory import has_no_memory

if TYPE_CHECKING:
    from .fake import FakeRun

__all__ = ["run_model"]

Result = TypeVar("Result")


def run_model(model: nn.Module, observe: Callable[[FakeRun | None], Result]) -> Result:
    """Return ``observe(None)``, or the result of :func:`.fake.run_fake` for a model without memory.

    torch's fake tensors are imported only there: that takes longer than all of this package.
    """
    if not has_no_memory(model):
        return observe(None)
    from .fake import run_fake

    return run_fake(model, observe)
