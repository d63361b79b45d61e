"""Models that ``pipecodec.partition`` cuts, trained by a schedule and as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

import pipecodec
from pipecodec.demo.launch import Rank

from ..distributed.observed_models import LENGTH, Observed
from .schedules import SCHEDULES

__all__ = ["Model", "train_models"]

CHUNKS = 4


@dataclass
class Model:
    """A model of ``observed_models`` under a schedule."""

    name: str
    schedule: str
    steps: int = 2
    within: float = 0.0
    """By how much losses, and weights after all steps, may differ: sums in another order."""

    def batches(self, step: int, evaluate: bool) -> list[Mapping[str, torch.Tensor]]:
        size = {"rows": 3, "length": 17} if evaluate else {"rows": 2, "length": LENGTH}
        observed = Observed(self.name)
        return [
            observed.batch(100 * step + 10 * i + 1000 * evaluate, **size, padded=i % 2 == 0)
            for i in range(CHUNKS)
        ]


def _optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def _alone(model: Model) -> tuple[list[Any], dict[str, torch.Tensor], set[str]]:
    module = Observed(model.name).build()
    optimizer, results = _optimizer(module.parameters()), []
    for step in range(model.steps):
        module.eval()
        with torch.no_grad():
            evaluated = [module(**b)["loss"].item() for b in model.batches(step, True)]
        module.train()
        losses = [module(**b)["loss"] for b in model.batches(step, False)]
        for loss in losses:
            loss.backward()
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(CHUNKS)
        missing = {n for n, p in module.named_parameters() if p.grad is None}
        optimizer.step()
        optimizer.zero_grad()
        results.append((evaluated, [loss.item() for loss in losses]))
    return results, dict(module.state_dict()), missing


def _on_rank(model: Model, rank: int, world: int) -> tuple[list[Any], Any, dict[str, bool]]:
    kind = SCHEDULES[model.schedule]
    module = Observed(model.name).build()
    part = pipecodec.partition(
        module,
        kwargs=model.batches(0, False)[0],
        n_stages=kind.count(world),
        verify=False,
    )
    own = kind.stages(rank, world)
    stages = [pipecodec.pipelining.build_stage(part, index) for index in own]
    schedule = kind.make(stages, CHUNKS, loss_fn=pipecodec.pipelining.loss())
    parameters = torch.nn.ModuleList([stage.submod for stage in stages]).parameters()
    optimizer, results = _optimizer(parameters), []
    first, last = 0 in own, kind.count(world) - 1 in own
    unused = torch.zeros(CHUNKS)

    def call(run: Any, step: int, evaluate: bool) -> list[float]:
        batches, losses = model.batches(step, evaluate), list[Any]()
        whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        run(**(whole if first else {}), **({"target": unused} if last else {}), losses=losses)
        return [loss.item() for loss in losses]

    for step in range(model.steps):
        _mode(stages, False)
        evaluated = call(schedule.eval, step, True)
        _mode(stages, True)
        losses = call(schedule.step, step, False)
        pipecodec.pipelining.sum_tied_gradients(stages)
        missing = {n: p.grad is None for n, p in _named(module, stages).items()}
        optimizer.step()
        optimizer.zero_grad()
        results.append((evaluated, losses))
    state = pipecodec.pipelining.model_state_dict(stages)
    return results if last else [], state, missing


def _mode(stages: Any, training: bool) -> None:
    for stage in stages:
        stage.submod.train(training)


def _named(module: Any, stages: Any) -> dict[str, Any]:
    """Return this rank's parameters by the model's names."""
    own = {id(p) for stage in stages for p in stage.submod.parameters()}
    return {name: p for name, p in module.named_parameters() if id(p) in own}


def train_models(rank: Rank, models: Mapping[str, Model]) -> dict[str, str]:
    """Train every model on this rank; rank 0 says how it differs from one process."""
    dist.init_process_group("gloo", rank=rank.rank, world_size=rank.world)
    found = {}
    for name, model in models.items():
        rank.say(name)
        results, state, missing = _on_rank(model, rank.rank, rank.world)
        ranks: list[Any] = [None] * rank.world
        dist.gather_object((results, missing), ranks if rank.rank == 0 else None)
        if rank.rank == 0:
            results = next(each for each, _ in ranks if each)
            missing = {n: lacks for _, own in ranks for n, lacks in own.items()}
            found[name] = _difference(model, results, state, missing)
    dist.destroy_process_group()
    return found


def _difference(model: Model, results: Any, state: Any, missing: Mapping[str, bool]) -> str:
    expected, weights, lacking = _alone(model)
    if not _near(results, expected, model.within):
        return f"losses {results} instead of {expected}"
    if wrong := [n for n, lacks in missing.items() if lacks != (n in lacking)]:
        return f"gradients are missing or not: {wrong}"
    if set(state) != set(weights):
        return f"other names: {set(state) ^ set(weights)}"
    far = {n: (state[n] - weights[n]).abs().max().item() for n in weights}
    worst = max(far, key=far.__getitem__)
    return f"{worst} by {far[worst]:.1e}" if far[worst] > model.within else ""


def _near(one: Any, other: Any, within: float) -> bool:
    flat = [torch.tensor([[*a, *b] for a, b in each]) for each in (one, other)]
    return bool(torch.allclose(*flat, rtol=0.0, atol=within)) if within else one == other
