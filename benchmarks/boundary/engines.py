"""DeepSpeed's own engine around the stages, one for each way in which they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import pipecodec.deepspeed
from benchmarks.boundary.cases import Case
from benchmarks.boundary.ways import PIPECODEC, bare_stages, tuple_stages

__all__ = ["MICRO_BATCHES", "batches", "engine_of"]

MICRO_BATCHES = 4


def engine_of(way: str, case: Case, stages: int) -> Any:
    """Return this rank's ``PipelineEngine``; all ranks call it together."""
    import deepspeed
    from deepspeed import pipe
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    topology = PipeDataParallelTopology(num_pp=stages, num_dp=1)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
    }

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        # Wrong gradients would show in the next step's loss, and 200 steps leave numbers tame.
        return torch.optim.SGD(parameters, lr=2**-10)

    if way == PIPECODEC:
        part = pipecodec.partition_modules(bare_stages(case, stages), ["x"])
        return pipecodec.deepspeed.initialize(
            part, topology=topology, loss_fn=None, config=config, optimizer=optimizer
        )[0]
    module = pipe.PipelineModule(
        tuple_stages(way, case, stages), topology=topology, partition_method="uniform"
    )
    return deepspeed.initialize(
        model=module,
        config=config,
        optimizer=optimizer,
        model_parameters=[*module.parameters()],
    )[0]


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a step's batches: a number, and labels that no stage reads."""
    for _ in range(MICRO_BATCHES):
        yield torch.ones(1), torch.ones(1)
