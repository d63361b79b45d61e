"""fp16, which the CPU can do once its accelerator says so: loss scales, overflow, other schedules.

Without ZeRO DeepSpeed divides gradients by a loss scale that nobody multiplied the loss with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipecodec.demo.launch import Rank

from .harness import values
from .precision import Case, Last, engine_of, loss_fn
from .reference import train_alone
from .test_unused import check, named

HALF = Case("momentum", "fp16", routes="all used", replicas=2)


def test_any_loss_scale_trains_alike() -> None:
    scales = [1.0, 32.0, 1024.0, None]
    cases = [replace(HALF, zero=zero, scale=scale) for zero in (0, 1) for scale in scales]
    checkpointing = {"pipeline": {"activation_checkpoint_interval": 1}}
    cases += [replace(HALF, zero=zero, config=checkpointing) for zero in (0, 1)]
    check(named(*cases))


class Ended(Last):
    """Returns its loss, so that ``initialize`` needs no function for it."""

    def forward(self, hidden: Any, route: Any, target: Any) -> Any:  # type: ignore[override]
        return loss_fn(self.run(hidden, route), target)


def overflowed(rank: Rank, zero: int, stage: int) -> list[Any]:
    """Train with infinite gradients on one stage of one replica in the second step."""
    case = replace(HALF, zero=zero, scale=None, config={"fp16": {"hysteresis": 1}})
    stages = case.build()
    engine = engine_of(case, stages)
    replica, seen = engine.grid.get_data_parallel_rank(), []
    for step in range(3):
        before = [p.detach().clone() for p in engine.module.parameters()]
        weight = stages[stage].always.weight
        hook = None
        if step == 1 and replica == 1 and engine.grid.get_stage_id() == stage:
            hook = weight.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
        engine.train_batch(case.batches(step, replica))
        if hook is not None:
            hook.remove()
        pairs = zip(before, engine.module.parameters(), strict=True)
        moved = any(not torch.equal(*pair) for pair in pairs)
        seen.append((moved, engine.optimizer.loss_scale, engine.skipped_steps))
    seen.append([p.flatten().tolist() for p in engine.module.parameters()])
    return seen


@pytest.mark.parametrize("zero", [0, 1])
def test_all_ranks_skip_the_step_in_which_one_stage_overflows(zero: int) -> None:
    for stage in (0, 1):
        ranks = values(overflowed, 4, zero, stage)
        for seen in ranks:
            assert seen[:3] == [(True, 256.0, 0), (False, 128.0, 1), (True, 128.0, 1)]
        assert ranks[0][3] == ranks[1][3]
        assert ranks[2][3] == ranks[3][3]


def with_targets(case: Case, step: int) -> Iterator[Any]:
    for batch in case.batches(step, 0):
        yield {**batch, "target": batch["labels"], "labels": None}


def otherwise(rank: Rank, zero: int) -> tuple[list[float], list[list[float]]]:
    """Return the losses of stages that end in their loss, and those with DualPipeV by scale."""
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    case = replace(HALF, zero=zero, replicas=1)
    stages = case.build()
    stages[-1] = Ended(middle=False)
    stages[-1].load_state_dict(case.build()[-1].state_dict())
    engine = engine_of(case, stages, ["hidden", "route", "target"], loss_fn=None)

    in_loss = [engine.train_batch(with_targets(case, step)).item() for step in range(3)]
    by_scale = []
    for scale in (1.0, 256.0):
        twice = {"gradient_accumulation_steps": 4}
        four = replace(case, pipes=4, scale=scale, config=twice)
        stages = four.build()
        topology = PipeDataParallelTopology(num_pp=2, num_dp=1)
        engine = engine_of(four, stages, topology=topology, schedule="dualpipev")
        batches = [[*four.batches(step, 0)] * 2 for step in range(3)]
        by_scale.append([engine.train_batch(iter(batch)).item() for batch in batches])
    return in_loss, by_scale


@pytest.mark.parametrize("zero", [0, 1])
def test_losses_of_the_last_stage_and_of_dualpipev_are_scaled_too(zero: int) -> None:
    losses = train_alone(replace(HALF, zero=zero, replicas=1)).losses
    for in_loss, (plain, scaled) in values(otherwise, 2, zero):
        assert in_loss == losses
        assert plain == scaled
