"""Finds batches that torch cannot split into micro-batches, or would split out of step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .inputs import Whole

__all__ = ["refuse_unsplit", "refuse_unsplit_target"]

_REMEDY = (
    "wrap an input that belongs to the whole batch in pipecodec.pipelining.whole(...), give one "
    "with an entry for each sample as pipecodec.pipelining.per_sample([...]), or name other "
    "dimensions in the schedule's args_chunk_spec and kwargs_chunk_spec"
)


def refuse_unsplit(inputs: Mapping[str, Any], count: int, *, evenly: bool) -> None:
    """Raise ``ValueError`` if torch cannot split the inputs into ``count`` micro-batches.

    torch splits each tensor by itself: a list of 6 and a tensor of 8 would be out of step.
    ``evenly`` tells that all micro-batches have to be of one size.
    """
    sizes: dict[int, str] = {}
    for path, tensor in _tensors(inputs):
        if tensor.dim() == 0:
            raise ValueError(
                f"{path} is a tensor without dimensions, and torch splits a batch along the first "
                f"one: give a number, or pipecodec.pipelining.whole({path})"
            )
        sizes.setdefault(tensor.size(0), path)
    if len(sizes) > 1 and count > 1:
        (one, first), (other, second), *_ = sizes.items()
        raise ValueError(
            f"the batch has {one} samples of {first}, but {other} of {second}: torch would split "
            f"them along their first dimensions, which are not of one size; {_REMEDY}"
        )
    for size, path in sizes.items():
        _refuse_few(path, size, count)
        if evenly and size % count:
            raise ValueError(
                f"{path} has {size} samples along its first dimension, which do not make {count} "
                f"micro-batches of one size: leave the last batch out (drop_last=True), fill it "
                f"up, or build the stages with build_stage(..., dynamic_shape=True)"
            )


def refuse_unsplit_target(target: Any, count: int) -> None:
    """Raise ``ValueError`` if the target cannot be split into ``count`` micro-batches."""
    marked = any(isinstance(leaf, (torch.Tensor, Whole)) for leaf in pytree.tree_leaves(target))
    if isinstance(target, list) or not marked:
        raise ValueError(
            f"target is a {type(target).__name__}: give "
            f"pipecodec.pipelining.per_sample([...]) with an entry for each sample, a tensor, a "
            f"tuple or dict of tensors, which are split, or pipecodec.pipelining.whole(...)"
        )
    for path, tensor in _tensors({"target": target}):
        if tensor.dim() == 0:
            raise ValueError(
                f"{path} is a tensor without dimensions, and torch splits a target along the first "
                f"one: give a number, or pipecodec.pipelining.whole(...)"
            )
        _refuse_few(path, tensor.size(0), count)


def _refuse_few(path: str, size: int, count: int) -> None:
    if size < count:
        raise ValueError(
            f"{path} has {size} samples along its first dimension, fewer than the schedule's "
            f"{count} micro-batches; give each at least one, or make the schedule with fewer"
        )


def _tensors(inputs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in inputs.items():
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, torch.Tensor):
                yield f"{name}{pytree.keystr(path)}", leaf
