"""Gradients of tied weights are summed so that the copies stay equal to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from .accumulated import DENSE
from .presence import Presence

__all__ = ["TiedSums", "sum_tied_gradients"]


class TiedSums(NamedTuple):
    """The sums of tied gradients: before those of replicas are averaged, and after."""

    before_average: Callable[[], None]
    after_average: Callable[[], None]


def sum_tied_gradients(engine: Any, presence: Presence) -> TiedSums:
    """Let this engine sum the gradients of tied copies after it averaged those of replicas.

    Every copy then gets one result of one all-reduce; in the engine's stock order replicas are
    averaged last, for each stage in an order of its own. ZeRO leaves each replica with no more
    than its part of the average, so there the tied gradients alone are averaged before, and ZeRO
    averages equal numbers. A copy without a gradient counts as zero; a weight that ``presence``
    found unused on all copies has no gradient on any.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    zero = isinstance(engine.optimizer, DeepSpeedZeroOptimizer)

    def tied_gradients() -> Iterator[tuple[torch.Tensor, Any]]:
        for weight, group in engine.module.get_tied_weights_and_groups():
            if weight not in presence.unused:
                yield presence.gradients.fill(weight, DENSE), group

    def before_average() -> None:
        if zero:
            replicas = engine.grid.get_data_parallel_group()
            for gradient, group in tied_gradients():
                dist.all_reduce(gradient, group=replicas)
                gradient.div_(dist.get_world_size(replicas))
                dist.all_reduce(gradient, group=group)

    def after_average() -> None:
        if not zero:
            for gradient, group in tied_gradients():
                dist.all_reduce(gradient, group=group)

    return TiedSums(before_average, after_average)
