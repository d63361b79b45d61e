"""Gradients of tied weights are summed so that the copies stay equal to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["sum_tied_gradients"]


def sum_tied_gradients(engine: Any) -> None:
    """Let this engine sum the gradients of tied copies after it averaged those of replicas.

    Every copy then gets one result of one all-reduce; in the engine's stock order replicas are
    averaged last, for each stage in an order of its own. ZeRO leaves each replica with no more
    than its part of the average, so there the tied gradients alone are averaged before, and ZeRO
    averages equal numbers. A copy without a gradient counts as zero.
    """
    from deepspeed.runtime.pipe import schedule
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    zero = isinstance(engine.optimizer, DeepSpeedZeroOptimizer)
    instructions = engine._INSTRUCTION_MAP
    average_replicas = instructions[schedule.ReduceGrads]

    def reduce_tied_grads(engine: Any) -> None:
        if zero:
            replicas = engine.grid.get_data_parallel_group()
            for gradient, group in _tied_gradients(engine):
                dist.all_reduce(gradient, group=replicas)
                gradient.div_(dist.get_world_size(replicas))
                dist.all_reduce(gradient, group=group)

    def reduce_grads(engine: Any) -> None:
        average_replicas(engine)
        if not zero:
            for gradient, group in _tied_gradients(engine):
                dist.all_reduce(gradient, group=group)

    engine._INSTRUCTION_MAP = {
        **instructions,
        schedule.ReduceTiedGrads: reduce_tied_grads,
        schedule.ReduceGrads: reduce_grads,
    }


def _tied_gradients(engine: Any) -> Iterator[tuple[torch.Tensor, Any]]:
    for weight, group in engine.module.get_tied_weights_and_groups():
        yield _gradient(engine, weight), group


def _gradient(engine: Any, weight: torch.Tensor) -> torch.Tensor:
    """Return where the optimizer finds the weight's gradient, zeros if it has none."""
    optimizer = engine.optimizer
    if engine.using_bf16_optimizer:
        for number, group in enumerate(optimizer.bf16_groups):
            for index, parameter in enumerate(group):
                if parameter is weight:
                    # Its norm leaves out gradients that are not marked.
                    optimizer.fp32_groups_has_gradients[number][index] = True
                    gradient: torch.Tensor = optimizer.fp32_groups_gradients[number][index]
                    return gradient
    name = "grad_accum" if getattr(optimizer, "use_grad_accum_attribute", False) else "grad"
    if getattr(weight, name, None) is None:
        dtype = optimizer.gradient_accumulation_dtype if name == "grad_accum" else weight.dtype
        setattr(weight, name, torch.zeros_like(weight, dtype=dtype, requires_grad=False))
    found: torch.Tensor = getattr(weight, name)
    return found
