"""Makes DeepSpeed without ZeRO count every stage in the norm of all gradients."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["allow_empty_grad_norm", "tag_gradients", "tag_parameters_for_grad_norm"]


def tag_parameters_for_grad_norm(module: torch.nn.Module, tensor_parallel_rank: int) -> None:
    """Tag parameters so that the norm of all gradients is that of all stages.

    In fp32 ``clip_grad_norm_`` in ``deepspeed/runtime/utils.py`` sums over all stages the gradients
    of parameters tagged ``model_parallel``, and of all others on the first rank of a data-parallel
    replica only: without the tag those of the other stages are left out. Not tagged are copies of
    tied weights but one, and parameters that every tensor-parallel rank holds, but on the first.
    """
    for parameter in module.parameters():
        replica: Any = getattr(parameter, "ds_pipe_replicated", False)
        sharded: Any = getattr(parameter, "tensor_model_parallel", False)
        parameter.model_parallel = not replica and (  # type: ignore[attr-defined]
            tensor_parallel_rank == 0 or sharded
        )


def allow_empty_grad_norm(optimizer: Any) -> None:
    """Give DeepSpeed's bf16 optimizer a zero to count where a rank has no gradient to count.

    It fails on a rank that holds nothing but copies of tied weights which other ranks count, or
    parameters which the first tensor-parallel rank counts.
    """
    counted = optimizer.get_grads_for_norm

    def get_grads_for_norm(for_clipping: bool = False) -> Any:
        found = counted(for_clipping)
        if for_clipping or found[0]:
            return found
        return [optimizer.fp32_groups_gradients_flat[0].new_zeros(1)], found[1]

    optimizer.get_grads_for_norm = get_grads_for_norm


def tag_gradients(optimizer: Any) -> None:
    """Let DeepSpeed's ``FP16_UnfusedOptimizer`` find the tags of parameters on their gradients.

    It asks the gradients themselves whether their norm is counted on this rank: a tied weight would
    count with each copy, and a parameter that tensor-parallel ranks share out on the first only.
    """
    step = optimizer.step

    def tagged_step(*args: Any, **kwargs: Any) -> Any:
        for group in optimizer.fp16_groups:
            for parameter in group:
                for tag in ("ds_pipe_replicated", "model_parallel", "tensor_model_parallel"):
                    if parameter.grad is not None and hasattr(parameter, tag):
                        setattr(parameter.grad, tag, getattr(parameter, tag))
        return step(*args, **kwargs)

    optimizer.step = tagged_step
