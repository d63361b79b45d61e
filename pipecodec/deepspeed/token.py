"""Ties what a pipeline ends in to the last stage's input, whatever it depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["join"]


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
        ctx.nothing = token.new_zeros(token.shape)  # on a device of its own: a loss may be moved
        # The same memory without being a view, so that a loss may still work in place.
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient, ctx.nothing
