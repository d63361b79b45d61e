"""Finds modules without parameters whose results every stage could compute for itself.

A rotary embedding is called with hidden states and positions, but takes only dtype and device of
the hidden states. Such an argument is **hollow**: a tensor without elements does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import nn

from ..no_memory import without_memory
from .structure import open_up, tensors_in
from .tape import Step

__all__ = ["hollow_arguments"]


def hollow_arguments(
    module: nn.Module,
    call: Callable[..., Any],
    args: Any,
    kwargs: Any,
    result: Any,
    step: Step,
    keys: dict[int, int],
) -> tuple[bool, tuple[int, ...]]:
    """Return whether a leaf computed `result` from its arguments alone, and its hollow arguments.

    The second are values by their keys. A hollow argument is found by calling the module again with
    an empty tensor in its place: the result has to be the same to the last bit.
    """
    results = [tensor for _, tensor in tensors_in(result)]
    if (
        next(module.parameters(), None) is not None
        or next(module.buffers(), None) is None
        or not results
        or any(tensor.requires_grad for tensor in results)
        or step.mutates
        or any(out.where != "result" for out in step.outs)
        or any(map(without_memory, results))
    ):
        return False, ()
    devices = sorted({t.device.index or 0 for t in results if t.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.no_grad():
        if not _same(_call_again(call, args, kwargs), results):
            return False, ()
        hollow = []
        for key in dict.fromkeys(
            keys[id(t)] for _, t in tensors_in((args, kwargs)) if id(t) in keys
        ):
            swapped = _swapped((args, kwargs), {key}, keys)
            if _same(_call_again(call, *swapped), results):
                hollow.append(key)
        everything = _swapped((args, kwargs), set(hollow), keys)
        return (
            (True, tuple(hollow)) if _same(_call_again(call, *everything), results) else (True, ())
        )


def _call_again(call: Callable[..., Any], args: Any, kwargs: Any) -> list[torch.Tensor] | None:
    try:
        return [tensor for _, tensor in tensors_in(call(*args, **kwargs))]
    except Exception:  # it needs more of the argument than dtype and device
        return None


def _same(found: list[torch.Tensor] | None, results: list[torch.Tensor]) -> bool:
    return (
        found is not None
        and len(found) == len(results)
        and all(
            one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
            for one, other in zip(found, results, strict=True)
        )
    )


def _swapped(value: Any, hollow: Set[int], keys: dict[int, int]) -> Any:
    if isinstance(value, torch.Tensor):
        empty = keys.get(id(value)) in hollow
        return value.new_empty((0,) * value.dim()) if empty else value
    parts = None if value is None else open_up(value)
    if parts is None:
        return value
    return parts.rebuild([_swapped(child, hollow, keys) for child in parts.children])
