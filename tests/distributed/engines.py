"""This rank's engine for some stages, on a grid of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pipecodec.deepspeed
from pipecodec import Partition, partition_modules

__all__ = ["Grid", "allow_fp16", "engine_for", "join", "loss_fn", "sgd"]

ACCUMULATE = 3


@dataclass(frozen=True)
class Grid:
    """How many stages, data-parallel replicas and tensor-parallel ranks of each stage.

    Under DualPipeV a process has two stages.
    """

    stages: int
    replicas: int = 1
    schedule: str = "1f1b"
    tensor: int = 1

    @property
    def pipes(self) -> int:
        """How many processes one pipeline has."""
        return self.stages // (2 if self.schedule == "dualpipev" else 1)

    @property
    def processes(self) -> int:
        return self.pipes * self.replicas * self.tensor

    @property
    def accumulate(self) -> int:
        return self.stages if self.schedule == "dualpipev" else ACCUMULATE

    def topology(self) -> Any:
        from deepspeed.runtime.pipe import topology

        if self.tensor > 1:
            return topology.PipeModelDataParallelTopology(self.pipes, self.tensor, self.replicas)
        return topology.PipeDataParallelTopology(num_pp=self.pipes, num_dp=self.replicas)


def loss_fn(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def join() -> None:
    """Join the ranks."""
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def allow_fp16() -> None:
    """Let DeepSpeed train in fp16 on the CPU, which computes it as any device does."""
    from deepspeed.accelerator import get_accelerator

    accelerator = type(get_accelerator())
    accelerator.is_fp16_supported = lambda self: True
    accelerator.supported_dtypes = lambda self: [torch.float, torch.half, torch.bfloat16]


def engine_for(
    stages: Partition | Sequence[nn.Module],
    grid: Grid,
    *,
    inputs: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = loss_fn,
    optimizer: Any = sgd,
    **options: Any,
) -> Any:
    """Return this rank's engine for ``stages``; ``config`` is merged into a plain one."""
    join()
    merged = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": grid.accumulate,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        **(config or {}),
    }
    part = stages if isinstance(stages, Partition) else partition_modules(stages, inputs)
    given = {"topology": grid.topology(), "schedule": grid.schedule, **options}
    return pipecodec.deepspeed.initialize(
        part, loss_fn=loss_fn, optimizer=optimizer, config=merged, **given
    )[0]
