"""A value that nobody used has no gradient on the stage that made it, which is not zeros."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from pipecodec.demo.launch import Rank

from .harness import outcomes, values
from .unused_values import CASES, Case, engine_of, loss_of, micro_batches


def gradients(stage: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: None if p.grad is None else p.grad.flatten().tolist()
        for name, p in stage.named_parameters()
        if name != "anchor"
    }
    return {**found, "calls": getattr(stage, "calls", 0)}


def alone(case: Case) -> list[list[dict[str, Any]]]:
    """Return, by stage and step, the gradients before the optimizer steps."""
    stages = case.build()
    optimizer = torch.optim.SGD([p for s in stages for p in s.parameters()], lr=0.1)
    found: list[list[dict[str, Any]]] = [[] for _ in stages]
    for step, uses in enumerate(case.uses):
        for (x, use), target in micro_batches(case, step):
            given = stages[0](x, use)
            hidden = given.pop("hidden")
            for middle in stages[1:-1]:
                hidden = middle(hidden)["hidden"]
            (loss_of(stages[-1](hidden, use, **given), target) / len(uses)).backward()
        for stage, seen in zip(stages, found, strict=True):
            seen.append(gradients(stage))
        optimizer.step()
        optimizer.zero_grad()
    return found


def trained(rank: Rank, names: list[str]) -> dict[str, dict[int, Any]]:
    """Return, by case and stage of this rank, the gradients before the engine reduces them."""
    return {name: trained_case(rank, CASES[name]) for name in names}


def trained_case(rank: Rank, case: Case) -> dict[int, Any]:
    from deepspeed.runtime.pipe import schedule

    stages = case.build()
    engine = engine_of(case, stages)
    own = sorted(
        {rank.rank, case.stages - 1 - rank.rank} if rank.world < case.stages else {rank.rank}
    )
    found: dict[int, Any] = {stage: [] for stage in own}
    reduce = engine._INSTRUCTION_MAP[schedule.ReduceTiedGrads]

    def noted(engine: Any) -> None:
        for stage in own:
            found[stage].append(gradients(stages[stage]))
        reduce(engine)

    engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, schedule.ReduceTiedGrads: noted}
    for step in range(len(case.uses)):
        if step == 1:
            engine.eval_batch(micro_batches(case, 2))
        engine.train_batch(micro_batches(case, step))
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_parameters_have_gradients_where_they_have_in_one_process(world: int) -> None:
    names = [name for name, case in CASES.items() if world == case.grid.processes]
    per_rank = values(trained, world, names)
    for name in names:
        expected = alone(CASES[name])
        assert any(None in seen.values() for seen in expected[0])
        for stage, gradients_alone in enumerate(expected):
            (found,) = [own[name][stage] for own in per_rank if stage in own[name]]
            for step, (here, there) in enumerate(zip(found, gradients_alone, strict=True)):
                differs = [key for key in there if here[key] != there[key]]
                assert not differs, f"{name}, stage {stage}, step {step}"


def read_no_gradients() -> None:
    """Send flags as on a device whose memory the host would have to wait for."""
    from pipecodec.deepspeed import setup

    setup.read_from_gradients = lambda engine: False


def trained_beside(rank: Rank, names: list[str]) -> dict[str, dict[int, Any]]:
    read_no_gradients()
    return trained(rank, names)


def test_flags_go_from_host_to_host_where_a_gradient_would_be_waited_for() -> None:
    names = ["3 stages", "dynamic, reentrant", "lone leaf"]
    per_rank = values(trained_beside, 3, names)
    for name in names:
        assert [own[name][stage] for stage, own in enumerate(per_rank)] == alone(CASES[name])


def left_without_flags(rank: Rank, killed: bool) -> None:
    """Let the last stage end after it sent a gradient, but not which leaves it is of."""
    from deepspeed.runtime.pipe import schedule

    read_no_gradients()
    case = Case(2, ((0, 0),), lone=True)
    engine = engine_of(case, case.build())
    send_gradient = engine._INSTRUCTION_MAP[schedule.SendGrad]

    def send_and_end(engine: Any, buffer_id: int) -> None:
        send_gradient(engine, buffer_id)
        if killed:
            os._exit(3)
        raise ValueError("ended after its gradient")

    if rank.rank == 1:
        (stage,) = engine.module.forward_funcs
        stage.incoming.note_unused = lambda unused, tunnel: None
        engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, schedule.SendGrad: send_and_end}
    engine.train_batch(micro_batches(case, 0))


@pytest.mark.parametrize("killed", [False, True])
def test_flags_that_never_come_are_an_error(killed: bool) -> None:
    first, last = outcomes(left_without_flags, 2, killed)
    assert first.status == "error" and last.status == ("died" if killed else "error")
    assert ("Connection" in first.detail) if killed else ("after its gradient" in first.detail)
