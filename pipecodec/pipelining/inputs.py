"""How torch splits the inputs of a batch into micro-batches, and how a stage gets them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..arguments import described

__all__ = ["per_sample", "split_target", "unwrapped", "whole"]


class Whole:
    """A value that torch does not look into, so that each micro-batch gets it as it is."""

    def __init__(self, value: Any) -> None:
        self.value = value


class PerSample(torch.Tensor):
    """The numbers of samples, int64 (samples,), which torch splits, with a value for each."""

    samples: Sequence[Any]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let all that is made of these numbers know the values too."""
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        samples = next((arg.samples for arg in args if isinstance(arg, PerSample)), None)

        def with_samples(part: Any) -> Any:
            part.samples = samples
            return part

        return pytree.tree_map_only(PerSample, with_samples, result)

    def taken(self) -> Any:
        """Return the values of these samples."""
        return [self.samples[i] for i in self.as_subclass(torch.Tensor).tolist()]


class PerMicroBatch(PerSample):
    """As many numbers as micro-batches, which torch splits, with a value for each."""

    def taken(self) -> Any:
        """Return the value of this micro-batch."""
        (value,) = super().taken()
        return value


def whole(value: Any) -> Any:
    """Mark an input that belongs to the whole batch: each micro-batch gets it as it is.

    For tensors whose first dimension is not that of samples, such as a table of shape (1, ...), and
    those without dimensions. ``value`` may be anything; numbers, text and None need no mark.
    """
    return Whole(value)


def per_sample(values: Sequence[Any]) -> torch.Tensor:
    """Mark an input with one entry for each sample: micro-batches get lists of theirs.

    For lists of images of different sizes, of names and the like; also as ``target``. Raises
    ``TypeError`` if ``values`` is no sequence, or text.
    """
    if isinstance(values, (str, bytes, torch.Tensor)) or not isinstance(values, Sequence):
        raise TypeError(
            f"values must be a list with an entry for each sample, not {described(values)}; torch "
            f"splits a tensor along its first dimension without per_sample"
        )
    numbers = torch.arange(len(values)).as_subclass(PerSample)
    numbers.samples = values
    return numbers


def split_target(target: Any, count: int) -> torch.Tensor:
    """Return a target that torch can split into ``count``, of one with tensors in containers.

    They are split as torch does it with inputs; all else, and each value that is marked as whole,
    is in each part.
    """
    leaves, spec = pytree.tree_flatten(target)
    each = [
        leaf.tensor_split(count) if isinstance(leaf, torch.Tensor) else [leaf] * count
        for leaf in leaves
    ]
    numbers = torch.arange(count).as_subclass(PerMicroBatch)
    numbers.samples = [
        pytree.tree_unflatten([parts[i] for parts in each], spec) for i in range(count)
    ]
    return numbers


def unwrapped(value: Any) -> Any:
    """Return an input, or a target, of one micro-batch without marks."""
    if isinstance(value, PerMicroBatch):
        value = value.taken()
    return pytree.tree_map(_unmarked, value)


def _unmarked(leaf: Any) -> Any:
    if isinstance(leaf, Whole):
        return leaf.value
    if isinstance(leaf, PerSample):
        return leaf.taken()
    if type(leaf) is torch.Tensor and leaf._is_view() and not leaf.requires_grad:
        # Without the batch's version counter and views: a stage may write into its micro-batch.
        return leaf.data
    return leaf
