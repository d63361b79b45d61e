"""The fate of the same values as a plain tuple of tensors, on DeepSpeed's pipeline engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .crossings import Leaf

__all__ = ["leaf_rules", "messages", "tuple_rules"]

META_INTS = 256
"""``TENSOR_META_SIZE`` of DeepSpeed's ``runtime/pipe/engine.py``."""

_SENDABLE = {
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
}
"""``ID_TO_DTYPE`` there."""


def leaf_rules(leaf: Leaf, used: bool | None, varies: bool | None) -> tuple[str, ...]:
    """Return the rules of the engine that a leaf breaks if it is sent in a plain tuple.

    docs/symptoms/index.md has the engine's errors, each of them seen.
    """
    if leaf.travels == "own batch":
        return ()
    if leaf.alias:
        return ("a tensor that occurs twice: arrives as two",)
    tensor = leaf.tensor
    if tensor is None:
        return ("no tensor: AssertionError",)
    rules = []
    if tensor.is_complex():
        rules.append("complex: wrong gradients, without an error")
    elif tensor.is_floating_point() and not tensor.requires_grad:
        rules.append("float without a gradient: RuntimeError in backward")
    elif tensor.is_floating_point() and used is False:
        rules.append("float that gets no gradient: AssertionError")
    if tensor.dtype is torch.bool:
        rules.append("bool: NCCL cannot send it")
    if leaf.dtype not in _SENDABLE:
        rules.append(f"{leaf.dtype}: KeyError, the engine has no number for it")
    if not tensor.is_contiguous():
        rules.append("not contiguous: RuntimeError")
    if varies:
        rules.append("another size: wrong values, or the process dies, with static shapes")
    return tuple(rules)


def messages(leaves: Sequence[Leaf]) -> tuple[int, int]:
    """Return a plain tuple's messages: one for each tensor, and back one for each float."""
    tensors = [leaf for leaf in leaves if leaf.kind == "tensor"]
    return len(tensors), sum(1 for leaf in tensors if is_float(leaf))


def is_float(leaf: Leaf) -> bool:
    """Tell whether the engine gives a leaf a gradient in any case."""
    return leaf.dtype is not None and leaf.dtype.startswith(("float", "bfloat"))


def tuple_rules(leaves: Sequence[Leaf], following: Sequence[Leaf] | None) -> tuple[str, ...]:
    """Return the rules of the engine that all leaves together break as a plain tuple.

    `following` are the leaves at the next boundary: the engine receives their gradients into the
    buffers of these leaves, found by index among the floats, whatever the dtype, if they are large
    enough.
    """
    rules = []
    tensors = [leaf for leaf in leaves if leaf.kind == "tensor" and leaf.shape is not None]
    ints = 2 + sum(2 + len(leaf.shape or ()) for leaf in tensors)
    if ints > META_INTS:
        rules.append(
            f"{ints} numbers describe its {len(tensors)} tensors, of {META_INTS}: AssertionError"
        )
    gradients = [leaf for leaf in following or () if leaf.kind == "tensor" and is_float(leaf)]
    for i, (own, gradient) in enumerate(zip(tensors, gradients, strict=False)):
        if own.dtype != gradient.dtype and _elements(own) >= _elements(gradient):
            rules.append(
                f"item {i} is {own.path} ({own.dtype}), into whose buffer the gradient of "
                f"{gradient.path} ({gradient.dtype}) is received: wrong values, or the process dies"
            )
    return tuple(rules)


def _elements(leaf: Leaf) -> int:
    return int(torch.Size(leaf.shape or ()).numel())
