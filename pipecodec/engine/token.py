"""Ties the output or loss of a pipeline to the last stage's input."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from .. import _C

__all__ = ["join", "join_loss", "nothing_to_train"]


def join(output: Any, token: torch.Tensor | None) -> Any:
    """Return ``output`` with ``token`` in the history of every tensor that can have one."""
    if token is None or not (torch.is_grad_enabled() and token.requires_grad):
        return output

    def joined(leaf: Any) -> Any:
        return _C.join(leaf, token) if _can_have_one(leaf) else leaf

    return joined(output) if isinstance(output, torch.Tensor) else pytree.tree_map(joined, output)


def join_loss(loss: Any, token: torch.Tensor | None) -> Any:
    """Return ``loss`` with ``token`` in its history, if it has one.

    Raises ``RuntimeError`` with torch's own text if it has none, where gradients are enabled: then
    the token would be all that its backward pass reaches.
    """
    if torch.is_grad_enabled():
        leaves = [leaf for leaf in _leaves(loss) if _can_have_one(leaf)]
        if leaves and not any(leaf.requires_grad for leaf in leaves):
            raise nothing_to_train()
    return join(loss, token)


def nothing_to_train() -> RuntimeError:
    """Return the error of a loss that no gradient of a trainable parameter depends on."""
    return RuntimeError(
        "element 0 of tensors does not require grad and does not have a grad_fn: the loss depends "
        "on nothing that is trained. Is it detached, or is all it depends on frozen? A stage that "
        "checkpoints reentrantly behind a frozen one gives no gradient unless its input requires "
        "one: call enable_input_require_grads() on the model; "
        'differentiable="by-dtype" does so too, where something is trained'
    )


def _leaves(value: Any) -> list[Any]:
    # A loss is one tensor nearly always, which needs no walk.
    return [value] if isinstance(value, torch.Tensor) else pytree.tree_leaves(value)


def _can_have_one(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
