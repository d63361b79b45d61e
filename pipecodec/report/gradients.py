"""Which of the tensors that cross get a gradient of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["loss_of", "used_tensors"]


def loss_of(output: Any) -> torch.Tensor | None:
    """Return the model's own loss: its output, or the output's ``loss``; None if it has none."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad:
        return loss
    return None


def used_tensors(output: Any, tensors: Sequence[torch.Tensor]) -> dict[int, bool]:
    """Return, by a tensor's id, whether it gets a gradient of the loss.

    Without a loss it is that of all the output's tensors. No ``.grad`` is written.
    """
    wanted = list({id(t): t for t in tensors if t.requires_grad}.values())
    loss = loss_of(output)
    if loss is None:
        parts = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        sums = [part.abs().double().sum() for part in parts if part.requires_grad]
        loss = torch.stack(sums).sum() if sums else None
    if loss is None or not wanted:
        return {}
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {id(t): g is not None for t, g in zip(wanted, found, strict=True)}
