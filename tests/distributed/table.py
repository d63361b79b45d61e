"""The training of ``rows``, on DeepSpeed's engine and in one process without any of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from .rows import TABLES
from .stages import WIDTH, Row, build
from .training import Result, loss_fn

__all__ = [
    "STEPS",
    "Grid",
    "engine_for",
    "engine_of",
    "micro_batches",
    "pipeline_rows",
    "whole_rows",
]

STEPS, ACCUMULATE = 3, 3


@dataclass(frozen=True)
class Grid:
    """How many stages and data-parallel replicas; under DualPipeV a process has two stages."""

    stages: int
    replicas: int = 1
    schedule: str = "1f1b"

    @property
    def processes(self) -> int:
        return self.stages * self.replicas // (2 if self.schedule == "dualpipev" else 1)

    @property
    def accumulate(self) -> int:
        return self.stages if self.schedule == "dualpipev" else ACCUMULATE


def micro_batches(
    row: Row, grid: Grid, step: int, *, replica: int = 0, evaluate: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Yield a step's batches for one replica; those for evaluation are others, and smaller."""
    for index in range(grid.accumulate):
        seed = 1000 * step + 100 * replica + index + 50 * evaluate
        random = torch.Generator().manual_seed(seed)
        size = row.sizes[(grid.accumulate * step + index) % len(row.sizes)]
        size -= evaluate
        yield {
            "x": torch.randn(size, WIDTH, generator=random),
            "ids": torch.randint(0, 2, (size, WIDTH), generator=random),
            "labels": torch.randint(0, 3, (size,), generator=random),
        }


def engine_for(
    stages: Sequence[nn.Module],
    grid: Grid,
    *,
    inputs: Sequence[str],
    config: Mapping[str, Any],
    **options: Any,
) -> Any:
    """Return this rank's engine for ``stages``, with SGD unless ``options`` say otherwise."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    merged = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": grid.accumulate,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        **config,
    }
    pipes = grid.processes // grid.replicas
    given = {
        "loss_fn": loss_fn,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        **options,
    }
    return pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(stages, inputs),
        topology=PipeDataParallelTopology(num_pp=pipes, num_dp=grid.replicas),
        schedule=grid.schedule,
        config=merged,
        **given,
    )[0]


def engine_of(row: Row, model: nn.ModuleList, grid: Grid) -> Any:
    """Return this rank's engine for the stages of ``model``."""
    return engine_for(list(model), grid, inputs=["x", "ids"], config=row.config, **row.options)


def pipeline_rows(rank: Rank, table: str, grid: Grid) -> dict[str, Result]:
    """Train every row of a table on this rank; says each row's name before it begins."""
    results = {}
    for name, row in TABLES[table].items():
        rank.say(name)
        results[name] = _pipeline(row, grid)
    return results


def _pipeline(row: Row, grid: Grid) -> Result:
    model = build(row, grid.stages)
    names = {parameter: name for name, parameter in model.named_parameters()}
    engine = engine_of(row, model, grid)
    replica = engine.grid.get_data_parallel_rank()
    result = Result()
    for step in range(STEPS + 1):
        if step in row.evaluate:
            batches = micro_batches(row, grid, step, replica=replica, evaluate=True)
            result.evaluations.append(engine.eval_batch(batches).item())
        if step < STEPS:
            batches = micro_batches(row, grid, step, replica=replica)
            result.losses.append(engine.train_batch(batches).item())
    here = {names[p]: p for p in engine.module.parameters() if p in names}
    result.weights = {name: p.flatten().tolist() for name, p in here.items()}
    return result


def whole_rows(rank: Rank, table: str, grid: Grid) -> dict[str, Result]:
    return {name: _whole(row, grid) for name, row in TABLES[table].items()}


def _whole(row: Row, grid: Grid) -> Result:
    """Train in one process; with bf16, on fp32 copies of the weights as DeepSpeed does."""
    model = build(row, grid.stages)
    if row.bf16:
        model.bfloat16()
    trained = [p for p in model.parameters() if p.requires_grad]
    masters = [p.detach().float() for p in trained]
    result = Result()
    for step in range(STEPS + 1):
        if step in row.evaluate:
            with torch.no_grad():
                result.evaluations.append(_mean(_losses(model, row, grid, step, True), grid))
        if step == STEPS:
            break
        losses = _losses(model, row, grid, step, False)
        gradients = [torch.zeros_like(p) for p in trained]
        for own in losses:
            for total, gradient in zip(gradients, _gradients(own, trained, grid), strict=True):
                total.add_(gradient)
        with torch.no_grad():
            for parameter, master, gradient in zip(trained, masters, gradients, strict=True):
                master.sub_((gradient / grid.replicas).float(), alpha=0.1)
                parameter.copy_(master)
        result.losses.append(_mean(losses, grid))
    result.weights = {name: p.flatten().tolist() for name, p in model.named_parameters()}
    return result


def _losses(
    model: nn.ModuleList, row: Row, grid: Grid, step: int, evaluate: bool
) -> list[list[Tensor]]:
    """Each replica's losses."""
    return [
        [
            _loss(model, batch)
            for batch in micro_batches(row, grid, step, replica=replica, evaluate=evaluate)
        ]
        for replica in range(grid.replicas)
    ]


def _gradients(losses: list[Tensor], trained: list[Tensor], grid: Grid) -> list[Tensor]:
    """One replica's gradients, summed in the parameters' dtype as DeepSpeed does by default."""
    sums = [torch.zeros_like(p) for p in trained]
    for loss in losses:
        found = torch.autograd.grad(loss / grid.accumulate, trained, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total.add_(gradient)
    return sums


def _mean(losses: list[list[Tensor]], grid: Grid) -> float:
    replicas = [sum(loss.detach() for loss in own) / grid.accumulate for own in losses]
    return (sum(replicas) / grid.replicas).item()


def _loss(model: nn.ModuleList, batch: dict[str, Tensor]) -> Tensor:
    """Call the stages one after the other, with what they name."""
    values: dict[str, Any] = dict(batch)
    for stage in model:
        names = inspect.signature(stage.forward).parameters
        output = stage(**{name: values[name] for name in names})
        if isinstance(output, dict):
            values.update(output)
    return loss_fn(output, batch["labels"])
