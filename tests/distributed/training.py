"""One training twice, by DeepSpeed's engine and by plain PyTorch; both run as a rank's function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from . import models

__all__ = [
    "Case",
    "Result",
    "engine_of",
    "loss_fn",
    "micro_batches",
    "train_pipeline",
    "train_whole",
]

MICRO_BATCH = 4


@dataclass(frozen=True)
class Case:
    """What to train: a class of ``models`` and its arguments.

    ``evaluate`` holds the steps before which ``eval_batch`` runs once; ``steps`` as a member means
    after the last one.
    """

    model: str
    stages: int
    arguments: dict[str, Any] = field(default_factory=dict)
    steps: int = 3
    accumulate: int = 2
    evaluate: frozenset[int] = frozenset()

    def build(self) -> nn.Module:
        """Return the model with the same weights in every process."""
        torch.manual_seed(7)
        model: nn.Module = getattr(models, self.model)(self.stages, **self.arguments)
        return model


@dataclass
class Result:
    """Losses and weights, to the bit; ``weights`` holds those of one rank's stage."""

    losses: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    weights: dict[str, list[float]] = field(default_factory=dict)


def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, target)


def micro_batches(case: Case, step: int) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Yield the micro-batches of a step: ((x, segment), target)."""
    for index in range(case.accumulate):
        random = torch.Generator().manual_seed(1000 * step + index)
        x = torch.randn(MICRO_BATCH, models.WIDTH, generator=random)
        segment = torch.randint(0, 2, (MICRO_BATCH, models.WIDTH), generator=random)
        target = torch.randint(0, 3, (MICRO_BATCH,), generator=random)
        yield (x, segment), target


def engine_of(case: Case, model: nn.Module) -> Any:
    """Return DeepSpeed's engine for this rank's stage of ``model``."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    config = {
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "gradient_accumulation_steps": case.accumulate,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
    }
    stages, outputs = model.stages()
    module = pipecodec.deepspeed.pipeline_module(
        pipecodec.partition_modules(stages, ["x", "segment"], outputs),
        topology=PipeDataParallelTopology(num_pp=case.stages, num_dp=1),
        loss_fn=loss_fn,
        config=config,
    )
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]


def train_pipeline(rank: Rank, case: Case) -> Result:
    model = case.build()
    names = {parameter: name for name, parameter in model.named_parameters()}
    engine = engine_of(case, model)
    result = Result()
    for step in range(case.steps + 1):
        if step in case.evaluate:
            result.evaluations.append(engine.eval_batch(micro_batches(case, 100 + step)).item())
        if step < case.steps:
            result.losses.append(engine.train_batch(micro_batches(case, step)).item())
    here = {names[p]: p for p in engine.module.parameters() if p in names}
    result.weights = {name: p.flatten().tolist() for name, p in here.items()}
    return result


def train_whole(rank: Rank, case: Case) -> Result:
    model = case.build()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    result = Result()
    for step in range(case.steps + 1):
        if step in case.evaluate:
            model.eval()
            with torch.no_grad():
                losses = [loss_fn(model(*x), y) for x, y in micro_batches(case, 100 + step)]
            result.evaluations.append((sum(losses) / case.accumulate).item())
            model.train()
        if step < case.steps:
            losses = [loss_fn(model(*x), y) for x, y in micro_batches(case, step)]
            for loss in losses:
                (loss / case.accumulate).backward()
            optimizer.step()
            optimizer.zero_grad()
            result.losses.append((sum(loss.detach() for loss in losses) / case.accumulate).item())
    result.weights = {name: p.flatten().tolist() for name, p in model.named_parameters()}
    return result
