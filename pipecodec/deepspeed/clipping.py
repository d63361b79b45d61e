"""Which parameters DeepSpeed's gradient clipping counts when it runs in fp32 without ZeRO."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["count_every_stage"]


def count_every_stage(module: torch.nn.Module, tensor_parallel_rank: int) -> None:
    """Tag parameters so that the norm of all gradients is that of all stages.

    ``clip_grad_norm_`` in ``deepspeed/runtime/utils.py`` sums over all stages the gradients of
    parameters tagged ``model_parallel``, and of all others on the first rank of a data-parallel
    replica only: without the tag those of the other stages are left out. Not tagged are copies of
    tied weights but one, and parameters that every tensor-parallel rank holds, but on the first.
    """
    for parameter in module.parameters():
        replica: Any = getattr(parameter, "ds_pipe_replicated", False)
        sharded: Any = getattr(parameter, "tensor_model_parallel", False)
        parameter.model_parallel = not replica and (  # type: ignore[attr-defined]
            tensor_parallel_rank == 0 or sharded
        )
