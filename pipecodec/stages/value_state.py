"""Tells whether a value was changed, and whether it shares a tensor with others."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .. import _C

__all__ = ["IMMUTABLE", "State"]

IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Enum)

_LEAVES = frozenset((type(None), bool, int, float, str))


class State:
    """The tensors and plain objects of a value, and how often each tensor was written to."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._leaves, self._spec = _flattened(value)
        self._marks = [_mark(leaf) for leaf in self._leaves]

    def is_of(self, value: Any) -> bool:
        """Return whether ``value`` is the same, and surely unchanged."""
        leaves, spec = _flattened(value)
        return spec == self._spec and all(
            one is other and mark is not None and _mark(one) == mark
            for one, other, mark in zip(leaves, self._leaves, self._marks, strict=True)
        )

    def is_in(self, values: Iterable[Any]) -> bool:
        """Return whether one of the tensors is in any of ``values``."""
        return any(shares_tensor(self._value, value) for value in values)


def shares_tensor(one: Any, other: Any) -> bool:
    """Return whether a tensor is in both values, in any container that can cross a boundary."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, IMMUTABLE) or isinstance(other, IMMUTABLE):
        return False
    ours, theirs = _flattened(one)[0], _flattened(other)[0]
    if all(isinstance(leaf, (torch.Tensor, *IMMUTABLE)) for leaf in (*ours, *theirs)):
        own = {id(leaf) for leaf in ours if isinstance(leaf, torch.Tensor)}
        return bool(own) and any(id(leaf) in own for leaf in theirs)
    # A type that pytree does not take apart: the second of two equal tensors is an alias, no leaf.
    try:
        apart = len(_C.pack(one, "cpu")) + len(_C.pack(other, "cpu")) - 2
        return len(_C.pack((one, other), "cpu")) - 1 < apart
    except Exception:  # it cannot cross, which its boundary says with its name
        return False


def _flattened(value: Any) -> tuple[list[Any], Any]:
    if isinstance(value, torch.Tensor) or type(value) in _LEAVES:
        return [value], None  # at each boundary of each micro-batch: pytree takes ten times as long
    return pytree.tree_flatten(value)


def _mark(leaf: Any) -> Any:
    """Return a value that differs once the leaf was written to; None where that is not seen."""
    if isinstance(leaf, torch.Tensor):
        # An inference tensor counts no writes; outside of inference mode nothing writes to it.
        return 0 if leaf.is_inference() else leaf._version
    if isinstance(leaf, IMMUTABLE):
        return 0
    try:
        *tensors, frame = _C.pack(leaf, "cpu")
    except Exception:  # it cannot cross, which its boundary says with its name
        return None
    return (
        [(id(tensor), _mark(tensor)) for tensor in tensors],
        frame.numpy().tobytes(),
        tensors,  # kept, so that no other tensor gets an id of theirs
    )
