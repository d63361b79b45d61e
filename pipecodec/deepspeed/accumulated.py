"""Finds an engine's gradients, which add up over a batch, where its optimizer has them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["DENSE", "NONE", "SPARSE", "Accumulated", "accumulated"]

NONE, SPARSE, DENSE = 0, 1, 2
"""Kinds of gradients; where replicas differ, the larger number is the one that all can sum."""


class Accumulated:
    """The gradients in one attribute of each parameter, ``grad`` unless the optimizer says so."""

    def __init__(self, name: str = "grad", dtype: torch.dtype | None = None) -> None:
        self._name, self._dtype = name, dtype

    def kind(self, parameter: torch.Tensor) -> int:
        """Return whether the parameter has a gradient, and which: NONE, SPARSE or DENSE."""
        gradient = getattr(parameter, self._name, None)
        if gradient is None:
            return NONE
        return SPARSE if gradient.is_sparse else DENSE

    def fill(self, parameter: torch.Tensor, kind: int) -> torch.Tensor:
        """Return the parameter's gradient as one of this kind, zeros if it has none."""
        gradient: torch.Tensor | None = getattr(parameter, self._name, None)
        if gradient is None:
            zeros = torch.zeros_like(parameter, dtype=self._dtype, requires_grad=False)
            gradient = zeros.to_sparse(1) if kind == SPARSE else zeros
        elif gradient.is_sparse and kind == DENSE:
            gradient = gradient.to_dense()
        setattr(parameter, self._name, gradient)
        return gradient

    def drop(self, parameter: torch.Tensor) -> None:
        """Let the parameter have no gradient."""
        setattr(parameter, self._name, None)


class _Flat(Accumulated):
    """The gradients of DeepSpeed's ``BF16_Optimizer``: slices of one tensor, each with a mark.

    Its norm of all gradients leaves out slices without a mark.
    """

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self._marks = optimizer.fp32_groups_has_gradients
        self._slices = optimizer.fp32_groups_gradients
        self._places = {
            parameter: (number, index)
            for number, group in enumerate(optimizer.bf16_groups)
            for index, parameter in enumerate(group)
        }

    def kind(self, parameter: torch.Tensor) -> int:
        place = self._places.get(parameter)
        return DENSE if place and self._marks[place[0]][place[1]] else NONE

    def fill(self, parameter: torch.Tensor, kind: int) -> torch.Tensor:
        if parameter not in self._places:  # not in a group of the optimizer
            return super().fill(parameter, kind)
        number, index = self._places[parameter]
        self._marks[number][index] = True
        gradient: torch.Tensor = self._slices[number][index]
        return gradient

    def drop(self, parameter: torch.Tensor) -> None:
        """Leave the slice, zeros, as it is: it is part of the tensor that is reduced."""


def accumulated(engine: Any) -> Accumulated:
    """Return where this engine has its gradients."""
    if engine.using_bf16_optimizer:
        return _Flat(engine.optimizer)
    if getattr(engine.optimizer, "use_grad_accum_attribute", False):
        return Accumulated("grad_accum", engine.optimizer.gradient_accumulation_dtype)
    return Accumulated()
