"""One training in three ways: in one process, with the origin's plumbing, in pipecodec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.origin.models import CASES, Case, loss_fn
from pipecodec.demo.launch import Rank

__all__ = ["MICRO_BATCHES", "STAGES", "STEPS", "in_one_process", "on_deepspeed", "on_pipecodec"]

STAGES, MICRO_BATCHES, STEPS = 3, 4, 4
RATE = 2e-3

Weights = dict[str, Any]


def in_one_process(rank: Rank, numbers: tuple[int, ...]) -> dict[int, tuple[list[float], Weights]]:
    """Train the unsplit models ``CASES[number]``; return losses and weights of each."""
    return {number: _whole(CASES[number]) for number in numbers}


def _whole(case: Case) -> tuple[list[float], Weights]:
    model, losses = case.model(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for step in range(STEPS):
        total = torch.zeros(())
        for k in range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES):
            inputs, labels = case.batch(k)
            loss = loss_fn(model(**inputs, return_dict=False), labels)
            (loss / MICRO_BATCHES).backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / MICRO_BATCHES).item())
    return losses, _weights(model)


def on_deepspeed(rank: Rank, number: int) -> tuple[list[float], Weights]:
    """Run in every rank: the ``Pipe`` in the origin's plumbing on DeepSpeed's own engine."""
    import deepspeed
    from deepspeed import pipe as deepspeed_pipe

    from benchmarks.origin.stage import stages_of

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    case = CASES[number]
    stages = stages_of(case.pipe(case.model()))
    module = deepspeed_pipe.PipelineModule(
        stages, topology=_topology(), partition_method="uniform", loss_fn=loss_fn
    )
    engine = deepspeed.initialize(
        model=module,
        config=_config(),
        optimizer=_optimizer,
        model_parameters=[*module.parameters()],
    )[0]
    batches = ((tuple(inputs.values()), labels) for inputs, labels in _batches(case))
    return [engine.train_batch(batches).item() for _ in range(STEPS)], {}


def on_pipecodec(rank: Rank, number: int) -> tuple[list[float], Weights]:
    """Run in every rank: the same ``Pipe`` as a partition."""
    import deepspeed

    import pipecodec.deepspeed
    from pipecodec.stages.split_graph import partition_graph

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    case = CASES[number]
    model = case.model()
    part = partition_graph(case.pipe(model), model)
    engine = pipecodec.deepspeed.initialize(
        part, topology=_topology(), loss_fn=loss_fn, config=_config(), optimizer=_optimizer
    )[0]
    batches = ((tuple(inputs.values()), labels) for inputs, labels in _batches(case))
    losses = [engine.train_batch(batches).item() for _ in range(STEPS)]
    return losses, _weights(part.stages[rank.rank])


def _batches(case: Case) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    return (case.batch(k) for k in range(STEPS * MICRO_BATCHES))


def _weights(module: nn.Module) -> Weights:
    names = module.named_parameters(remove_duplicate=False)
    return {name: parameter.detach().numpy() for name, parameter in names}


def _optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=RATE)


def _topology() -> Any:
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    return PipeDataParallelTopology(num_pp=STAGES, num_dp=1)


def _config() -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
    }
