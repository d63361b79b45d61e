"""Clips the gradients of all stages by their common norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.linalg import vector_norm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..arguments import number
from ..engine.failure import OF
from ..engine.together import on_all_ranks
from .own_tensors import own_parameters
from .pipeline import Pipeline

__all__ = ["clip_grad_norm_"]


def clip_grad_norm_(
    stages: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Clip the gradients of the whole model, as ``torch.nn.utils.clip_grad_norm_`` does.

    Call it with this rank's stages (one, or a list of all) on all ranks, after
    ``sum_tied_gradients`` where stages share weights; a weight of several stages counts once, and a
    DTensor's shards as one gradient. ``norm_type`` is a positive number or ``inf``. Returns the
    norm of all gradients, a tensor without dimensions: float64 on a rank with parameters of that
    dtype, else float32. Raises, on all ranks, ``ValueError`` for another ``norm_type``, and
    ``RuntimeError`` if tied gradients are not summed, or for a norm that is not finite if asked.
    """
    max_norm, norm_type = number("max_norm", max_norm), number("norm_type", norm_type)
    pipeline = Pipeline.of(stages)
    with pipeline.call(f"clip_grad_norm_{OF}max_norm={max_norm}, norm_type={norm_type}"):
        if not norm_type > 0:
            raise on_all_ranks(ValueError(f"norm_type={norm_type}: give a positive number, or inf"))
        if pipeline.ties.due:
            raise on_all_ranks(
                RuntimeError(
                    "the gradients of tied weights are not summed: call "
                    "pipecodec.pipelining.sum_tied_gradients(stages) first"
                )
            )
        parameters = own_parameters(stage.submod for stage in pipeline.stages)
        elsewhere = {id(copy) for copy in pipeline.ties.counted_elsewhere}
        counted = [p for p in parameters if id(p) not in elsewhere]
        norms = [
            get_total_norm([p.grad for p in group if p.grad is not None], norm_type, False, foreach)
            for group in _alike(counted).values()
        ]
        total = _over_ranks(norms, norm_type, pipeline)
        if error_if_nonfinite and not bool(torch.isfinite(total)):
            raise on_all_ranks(
                RuntimeError(f"the norm of all gradients is {float(total)}, which is not finite")
            )
        for (_, double), group in _alike(parameters).items():
            norm = total if double else total.float()
            clip_grads_with_norm_(group, max_norm, norm, foreach)
        return total if any(p.dtype == torch.float64 for p in parameters) else total.float()


def _alike(parameters: Sequence[nn.Parameter]) -> dict[tuple[Any, bool], list[nn.Parameter]]:
    """Return those with gradients, by the mesh of their shards, and whether they are float64.

    torch mixes no shards of two meshes. A copy of a weight gets the same factor on every rank.
    """
    found: dict[tuple[Any, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            mesh = gradient.device_mesh if isinstance(gradient, DTensor) else None
            found.setdefault((mesh, gradient.dtype == torch.float64), []).append(parameter)
    return found


def _over_ranks(
    norms: Sequence[torch.Tensor], norm_type: float, pipeline: Pipeline
) -> torch.Tensor:
    """Return the norm of all ranks' norms: float64, whatever their gradients are."""
    own = torch.zeros((), dtype=torch.float64, device=pipeline.device)
    if norms:
        whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        own = vector_norm(torch.stack([each.to(own) for each in whole]), norm_type)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(pipeline.group))]
    dist.all_gather(everyone, own, group=pipeline.group)
    total: torch.Tensor = vector_norm(torch.stack(everyone), norm_type)
    return total
