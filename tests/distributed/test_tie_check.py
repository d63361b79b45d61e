"""Copies of a tied weight that do not stay one weight are noticed, on every rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipecodec import partition_modules
from pipecodec.deepspeed import RemoteError
from pipecodec.demo.launch import Rank

from .engines import join
from .harness import values
from .tied import Case, build, engine_of
from .training import on_engine

STEPS = 20
HONEST = Case(("a b", "a", "b a"), 3, check=1, steps=STEPS)


def engine_for(case: Case) -> Any:
    model, stages, loss = build(case)
    return engine_of(case, partition_modules(stages, model=model), loss)


def honest(rank: Rank) -> int:
    results = on_engine(rank, {key: replace(HONEST, bf16=key, zero=key) for key in (False, True)})
    return sum(len(trained.losses) for trained in results.values())


def test_nothing_is_raised_in_honest_steps() -> None:
    assert values(honest, 3) == [2 * STEPS] * 3


def planted(rank: Rank, every: int) -> tuple[int, str, str]:
    """Change one bit of one copy after step 3, and return in which step that is noticed."""
    join()
    engine = engine_for(replace(HONEST, check=every))
    for step in range(1, 8):
        if step == 4 and rank.rank == 1:
            weight = engine.module.forward_funcs[0].mod.a
            weight.data[3, 5] = torch.nextafter(weight.data[3, 5], torch.tensor(9.0))
        try:
            engine.train_batch(HONEST.batches(step, 0))
        except Exception as error:
            return step, type(error).__name__, str(error)
    return 0, "", ""


@pytest.mark.parametrize(("every", "noticed"), [(1, 4), (3, 6), (0, 0)])
def test_a_planted_difference_is_one_error_on_every_rank(every: int, noticed: int) -> None:
    ended = values(planted, 3, every)
    assert [step for step, *_ in ended] == [noticed] * 3
    for _, name, message in ended if noticed else ():
        assert name in (RuntimeError.__name__, RemoteError.__name__)
        assert (
            f"after step {noticed} the copies of a tied weight are not equal any more: "
            f"a (stage 0) on rank 0 = a (stage 2) on rank 2 differs from a (stage 1) on rank 1; "
            f"something changes them one by one"
        ) in message


def drift(rank: Rank) -> str:
    """Train with as many replicas as let the engine's own order of sums drift."""
    with pytest.raises(RuntimeError) as caught:
        case = Case(("a", "a"), 2, replicas=4, steps=STEPS, without="order", check=1)
        on_engine(rank, {"drift": case})
    return str(caught.value)


def test_drift_by_rounding_is_noticed() -> None:
    for message in values(drift, 8):
        assert "differs from a (stage 1) on rank" in message


def numbers(rank: Rank, given: list[int]) -> str:
    join()
    with pytest.raises(ValueError) as caught:
        engine_for(replace(HONEST, check=given[rank.rank]))
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 1, 2], "ranks differ in check_ties_every: 1 on ranks 0, 1; 2 on rank 2; "
                    "give all ranks the same"),
        ([-1, -1, -1], "check_ties_every must be a number of steps, or 0 for never, not -1"),
    ],
)  # fmt: skip
def test_every_rank_gives_the_same_number(given: list[int], message: str) -> None:
    assert values(numbers, 3, given) == [message] * 3
