"""Finds the loss that a model computes itself, in its output of any form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["model_loss"]


def model_loss(output: Any, _labels: Any) -> Any:
    """Return the loss in the last stage's ``output``: the loss function where none is given.

    That is ``output`` itself if it is a tensor, else its entry or attribute ``loss``, as Hugging
    Face's models have it, or the first item of a tuple or list. Raises ``ValueError`` where there
    is none.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping) and "loss" in output:
        loss = output["loss"]
    elif hasattr(output, "loss"):
        loss = output.loss
    elif isinstance(output, (tuple, list)) and output:
        loss = output[0]
    else:
        raise ValueError(
            f"without loss_fn= the loss is that of the model, but the last stage returned a "
            f"{type(output).__name__} without an entry or attribute 'loss'; return one, or pass "
            f"loss_fn="
        )
    if loss is None:
        raise ValueError(
            "without loss_fn= the loss is that of the model, but the last stage returned none "
            "(loss is None); have labels in each batch and in the one that partition observes, or "
            "pass loss_fn="
        )
    return loss
