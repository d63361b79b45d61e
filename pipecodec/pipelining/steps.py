"""Calls between a schedule's step and the optimizer's, which all ranks make together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .pipeline import Pipeline

__all__ = ["clip_grad_norm_", "reset", "sum_tied_gradients"]


def sum_tied_gradients(stages: Any) -> None:
    """Sum the gradients of weights that several stages share, so that their copies stay equal.

    Call it with this rank's stages (one, or a list of all), on all ranks, after the last
    ``schedule.step`` whose gradients count and before they are clipped and stepped on; an optimizer
    that steps on tied weights without it raises an error. Without tied weights it does nothing.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("sum_tied_gradients"):
        pipeline.ties.sum()


def clip_grad_norm_(
    stages: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Clip the gradients of the whole model, as ``torch.nn.utils.clip_grad_norm_`` does.

    Call it with this rank's stages (one, or a list of all) on all ranks, after
    ``sum_tied_gradients`` where stages share weights; a weight of several stages counts once.
    Returns the norm of all gradients, a tensor without dimensions, the same on all ranks. Raises
    ``RuntimeError`` if tied gradients are not summed, and for a norm that is not finite if asked.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("clip_grad_norm_"):
        ties = pipeline.ties
        if ties.due:
            raise RuntimeError(
                "the gradients of tied weights are not summed: call "
                "pipecodec.pipelining.sum_tied_gradients(stages) first"
            )
        modules = [stage.submod for stage in pipeline.stages]
        parameters = list(nn.ModuleList(modules).parameters())
        elsewhere = {id(copy) for copy in ties.counted_elsewhere}
        counted = [p.grad for p in parameters if p.grad is not None and id(p) not in elsewhere]
        norm = torch.nn.utils.get_total_norm(counted, norm_type, False, foreach)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        norm = norm.to(pipeline.device, torch.promote_types(norm.dtype, torch.float32))
        if norm_type == float("inf"):
            dist.all_reduce(norm, dist.ReduceOp.MAX, group=pipeline.group)
        else:
            norm = norm**norm_type
            dist.all_reduce(norm, group=pipeline.group)
            norm = norm ** (1.0 / norm_type)
        if error_if_nonfinite and not bool(torch.isfinite(norm)):
            raise RuntimeError(f"the norm of all gradients is {float(norm)}, which is not finite")
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm, foreach)
        return norm


def reset(stages: Any) -> None:
    """Let the boundaries agree anew on sizes, and on the values that have gradients.

    Call it with this rank's stages (one, or a list of all), on all ranks between two batches, after
    parameters were frozen or unfrozen, or before batches of other sizes.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("reset"):
        pipeline.reset()
