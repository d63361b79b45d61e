"""Where a pipeline ends: the last stage's output, the labels, and the loss of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from .wrapper import DeepSpeedPipeStageWrapper

__all__ = ["Labels", "join", "loss_of"]

LossFn = Callable[[Any, Any], Any]


class Labels:
    """Labels of any form: the engine looks into tensors, tuples and lists only."""

    def __init__(self, value: Any) -> None:
        self.value = value


def loss_of(last: DeepSpeedPipeStageWrapper, loss_fn: LossFn) -> LossFn:
    """Return what the engine is to call for the loss of what the stage ``last`` returned.

    ``loss_fn`` gets the output of the stage's module, and labels of any form. What it returns is
    tied to the stage's input even if it does not depend on it.
    """
    last.end_in_loss()

    def loss(output: Any, labels: Any) -> Any:
        output, token = last.finish(output)
        return join(loss_fn(output, labels.value if isinstance(labels, Labels) else labels), token)

    return loss


def join(output: Any, token: torch.Tensor | None) -> Any:
    """Return ``output`` with ``token`` in the history of every tensor that can have one."""
    if token is None or not (torch.is_grad_enabled() and token.requires_grad):
        return output

    def joined(leaf: Any) -> Any:
        differentiable = isinstance(leaf, torch.Tensor) and (
            leaf.is_floating_point() or leaf.is_complex()
        )
        return _Join.apply(leaf, token) if differentiable else leaf  # type: ignore[no-untyped-call]

    return pytree.tree_map(joined, output)


class _Join(torch.autograd.Function):
    """Hands on its first argument, and gives the second one a gradient without elements."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        # The same memory without being a view, so that a loss may still work in place.
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient, gradient.new_zeros(0, dtype=torch.float32)
