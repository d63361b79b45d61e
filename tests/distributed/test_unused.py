"""A parameter that no micro-batch of a step used has no gradient in it, as in one process.

DeepSpeed's engine makes zeros of None before it reduces gradients, also with one replica, so that
weight decay and momentum move the parameter; its ZeRO optimizer reduces the parameters that have a
gradient on its rank, so that two replicas which use different layers add up gradients of different
parameters, silently if these have one size.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from . import comparison
from .harness import TIMEOUT, values
from .precision import Case, engine_of, loss_fn
from .reference import train_alone
from .training import on_engine

PRECISIONS = ["fp32", "bf16", "fp16"]


def check(cases: dict[str, Case], within: float = 0.0) -> None:
    """Train all in one set of processes, and compare each with a training in this one."""
    (processes,) = {case.grid.processes for case in cases.values()}
    ranks = values(on_engine, processes, cases, timeout=TIMEOUT + 2 * len(cases))
    for name, case in cases.items():
        comparison.check([rank[name] for rank in ranks], train_alone(case), within)


def named(*cases: Case) -> dict[str, Case]:
    return {repr(case): case for case in cases}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unused_parameters_are_left_alone(precision: str) -> None:
    optimizers = ["sgd", "momentum", "adamw"]
    check(named(*(Case(o, precision, zero) for o, zero in product(optimizers, (0, 1)))))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_replicas_may_use_other_layers(precision: str) -> None:
    combinations = product(["momentum", "adamw"], (0, 1), ["unused", "other layers"])
    check(named(*(Case(o, precision, zero, 2, routes) for o, zero, routes in combinations)))


def test_a_stage_without_any_gradient_clips_with_the_others() -> None:
    combinations = product(PRECISIONS, (0, 1))
    cases = [
        Case("adamw", precision, zero, 2, "idle", pipes=3, clip=0.3)
        for precision, zero in combinations
    ]
    check(named(*(case for case in cases if case.precision != "bf16" or case.zero)), within=2.5e-7)
    # Gradients are clipped in bf16, where a norm that was summed in another order rounds otherwise.
    check(named(*(case for case in cases if case.precision == "bf16" and not case.zero)), 2e-3)


ACCUMULATION = {
    "bf16, fp32 accumulation, ZeRO": Case(
        "adamw", "bf16", 1, 2, "other layers", config={"data_types": {"grad_accum_dtype": "fp32"}}
    ),
    "fp16, fp32 accumulation, ZeRO": Case(
        "adamw", "fp16", 1, 2, "other layers", config={"data_types": {"grad_accum_dtype": "fp32"}}
    ),
    "bf16, at once": Case(
        "momentum", "bf16", 0, 2, "unused", config={"bf16": {"immediate_grad_update": True}}
    ),
}


def test_gradients_may_be_accumulated_in_other_ways() -> None:
    check(ACCUMULATION)


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_tied_weights_that_no_copy_used_are_left_alone(clip: float) -> None:
    tied: dict[str, Any] = {"replicas": 2, "routes": "other layers", "clip": clip, "tied": True}
    # The sum of the copies' gradients is rounded in another order than one process does.
    check(named(*(Case("momentum", "fp32", zero, **tied) for zero in (0, 1))), within=2.5e-7)
    halves = product(["bf16", "fp16"], (0, 1))
    check(named(*(Case("momentum", half, zero, **tied) for half, zero in halves)), within=1e-3)


class Words(nn.Module):
    """An embedding with a sparse gradient, which only some batches look into."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4, sparse=True)
        self.linear = nn.Linear(4, 4)

    def forward(self, ids: Tensor, look: bool) -> Tensor:
        return self.linear(self.words(ids) if look else ids[:, None].float().expand(-1, 4))


LOOK = [[True, True], [True, False], [False, True], [False, False], [True, True]]


def word_batches(step: int, replica: int) -> Iterator[Any]:
    for index in range(2):
        random = torch.Generator().manual_seed(100 * step + 10 * replica + index)
        ids = torch.randint(0, 10, (4,), generator=random)
        yield (ids, LOOK[step][replica]), torch.randn(4, 4, generator=random)


def look_up(rank: Rank) -> tuple[list[float], list[float] | None]:
    torch.manual_seed(1)
    stages = nn.ModuleList([Words(), nn.Linear(4, 4)])
    case = Case("sgd", replicas=2)
    engine = engine_of(case, stages, ["ids", "look"])
    replica = engine.grid.get_data_parallel_rank()
    losses = [engine.train_batch(word_batches(step, replica)).item() for step in range(len(LOOK))]
    words = stages[0].words.weight
    return losses, words.flatten().tolist() if engine.grid.get_stage_id() == 0 else None


def test_sparse_gradients_of_one_replica_meet_none_of_the_other() -> None:
    """The engine gave the other replica dense zeros, which it reduces in another collective."""
    ranks = values(look_up, 4)
    torch.manual_seed(1)
    stages = nn.ModuleList([Words(), nn.Linear(4, 4)])
    optimizer = torch.optim.SGD(stages.parameters(), lr=0.1)
    for step in range(len(LOOK)):
        losses = [
            loss_fn(stages[1](stages[0](*given)), target)
            for replica in range(2)
            for given, target in word_batches(step, replica)
        ]
        loss = sum(losses[1:], losses[0]) / 4
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for rank in ranks:
            assert rank[0][step] == pytest.approx(loss.item(), rel=1e-6)
    words = stages[0].words.weight.flatten().tolist()
    assert ranks[0][1] == ranks[1][1] == pytest.approx(words, rel=1e-6)
