"""The training of ``rows``, on DeepSpeed's engine and in one process without any of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from .rows import ROWS, WIDTH, Row, build
from .training import Result, loss_fn

__all__ = ["ACCUMULATE", "STEPS", "engine_of", "micro_batches", "pipeline_rows", "whole_rows"]

STEPS, ACCUMULATE = 3, 3


def micro_batches(row: Row, step: int, less: int = 0) -> Iterator[dict[str, Tensor]]:
    for index in range(ACCUMULATE):
        random = torch.Generator().manual_seed(1000 * step + index)
        size = row.sizes[(ACCUMULATE * step + index) % len(row.sizes)] - less
        yield {
            "x": torch.randn(size, WIDTH, generator=random),
            "ids": torch.randint(0, 2, (size, WIDTH), generator=random),
            "labels": torch.randint(0, 3, (size,), generator=random),
        }


def evaluation(row: Row, step: int) -> Iterator[dict[str, Tensor]]:
    return micro_batches(row, 100 + step, less=int(len(row.sizes) > 1))


def pipeline_rows(rank: Rank, names: Sequence[str], stages: int) -> dict[str, Result]:
    """Train every row on this rank; says each row's name before it begins."""
    results = {}
    for name in names:
        rank.say(name)
        results[name] = _pipeline(ROWS[name], stages)
    return results


def engine_of(row: Row, model: nn.ModuleList, stages: int) -> Any:
    """Return this rank's engine for the stages of ``model``."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(list(model), ["x", "ids"]),
        topology=PipeDataParallelTopology(num_pp=stages, num_dp=1),
        loss_fn=loss_fn,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": ACCUMULATE,
            "gradient_clipping": 0.0,
            "steps_per_print": None,
            **row.config,
        },
        **row.options,
    )[0]


def _pipeline(row: Row, stages: int) -> Result:
    model = build(row, stages)
    names = {parameter: name for name, parameter in model.named_parameters()}
    engine = engine_of(row, model, stages)
    result = Result()
    for step in range(STEPS + 1):
        if step in row.evaluate:
            result.evaluations.append(engine.eval_batch(evaluation(row, step)).item())
        if step < STEPS:
            result.losses.append(engine.train_batch(micro_batches(row, step)).item())
    here = {names[p]: p for p in engine.module.parameters() if p in names}
    result.weights = {name: p.flatten().tolist() for name, p in here.items()}
    return result


def whole_rows(rank: Rank, names: Sequence[str], stages: int) -> dict[str, Result]:
    return {name: _whole(ROWS[name], stages) for name in names}


def _whole(row: Row, stages: int) -> Result:
    model = build(row, stages)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    result = Result()
    for step in range(STEPS + 1):
        if step in row.evaluate:
            with torch.no_grad():
                losses = [_loss(model, batch) for batch in evaluation(row, step)]
            result.evaluations.append((sum(losses) / ACCUMULATE).item())
        if step < STEPS:
            losses = [_loss(model, batch) for batch in micro_batches(row, step)]
            for loss in losses:
                (loss / ACCUMULATE).backward()
            optimizer.step()
            optimizer.zero_grad()
            result.losses.append((sum(loss.detach() for loss in losses) / ACCUMULATE).item())
    result.weights = {name: p.flatten().tolist() for name, p in model.named_parameters()}
    return result


def _loss(model: nn.ModuleList, batch: dict[str, Tensor]) -> Tensor:
    """Call the stages one after the other, with what they name."""
    values: dict[str, Any] = dict(batch)
    for stage in model:
        output = stage(
            **{name: values[name] for name in inspect.signature(stage.forward).parameters}
        )
        if isinstance(output, dict):
            values.update(output)
    return loss_fn(output, batch["labels"])
