"""Finds where an engine's optimizer keeps the state of each parameter."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Layout", "Span", "layout_of", "spans", "state_files"]


@dataclass(frozen=True)
class Layout:
    """The parameters of each group of an optimizer, and how their states lie in memory.

    ``kind`` is the class that DeepSpeed put around ``inner``, or "" for none. With ``starts`` a
    group is one flat tensor, in which each parameter begins at that element; it is cut into
    ``partitions`` parts of ``sizes`` elements, of which this rank has number ``partition``. Without
    ``starts`` each parameter has its own state.
    """

    kind: str
    inner: Any
    groups: list[list[torch.Tensor]]
    starts: list[list[int]] | None = None
    sizes: list[int] | None = None
    partition: int = 0
    partitions: int = 1


@dataclass(frozen=True)
class Span:
    """Elements that follow each other: ``count`` from ``start`` of a flat tensor's partition."""

    partition: int
    start: int
    count: int


def layout_of(engine: Any) -> Layout | None:
    """Return where the optimizer keeps its state; None if that is not known, or there is none."""
    optimizer = engine.optimizer
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.Optimizer):
        groups = [list(group["params"]) for group in optimizer.param_groups]
        return Layout("", optimizer, groups)
    if kind == "FP16_UnfusedOptimizer":
        return Layout(kind, optimizer.optimizer, optimizer.fp16_groups)
    if kind == "FP16_Optimizer":
        groups, flats = optimizer.fp16_groups, optimizer.fp16_groups_flat
        return Layout(
            kind, optimizer.optimizer, groups, _starts(groups), [f.numel() for f in flats]
        )
    if kind == "BF16_Optimizer":
        groups, flats = optimizer.bf16_groups, optimizer.bf16_groups_flat
        starts = _starts(groups)
    elif kind == "DeepSpeedZeroOptimizer":
        groups, flats = optimizer.round_robin_bit16_groups, optimizer.bit16_groups_flat
        starts = [list(offsets) for offsets in optimizer.round_robin_bit16_offsets]
    else:
        return None
    partitions = dist.get_world_size(group=optimizer.dp_process_group)
    return Layout(
        kind,
        optimizer.optimizer,
        groups,
        starts,
        [flat.numel() // partitions for flat in flats],
        dist.get_rank(group=optimizer.dp_process_group),
        partitions,
    )


def state_files(engine: Any, layout: Layout) -> list[str]:
    """Return the names of the files that have the state, one for each partition."""
    if layout.kind not in ("BF16_Optimizer", "DeepSpeedZeroOptimizer"):
        return [os.path.basename(engine._get_ckpt_name("", "tag"))]
    rank, bf16 = engine.checkpoint_mp_rank, engine.bfloat16_enabled()
    return [
        os.path.basename(engine._get_rank_zero_ckpt_name("", "tag", rank, partition, bf16))
        for partition in range(layout.partitions)
    ]


def spans(start: int, count: int, size: int) -> Iterator[Span]:
    """Cut ``count`` elements from ``start`` of a flat tensor at the ends of its partitions."""
    while count:
        partition, within = divmod(start, size)
        part = min(count, size - within)
        yield Span(partition, within, part)
        start, count = start + part, count - part


def _starts(groups: list[list[torch.Tensor]]) -> list[list[int]]:
    return [
        [0, *itertools.accumulate(parameter.numel() for parameter in group)][:-1]
        for group in groups
    ]
