"""A rank that fails ends the others: with an error, before their deadline, never with a hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from pipecodec.demo.launch import Rank

from .harness import outcomes
from .training import Case, engine_of, micro_batches

CASE = Case("Decoder", 3, accumulate=4)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ArithmeticError("planted in a stage")


def train(rank: Rank, failing: int, how: Callable[[], None]) -> None:
    """Train two steps; rank ``failing`` does ``how`` in its second micro-batch of the second."""
    engine = engine_of(CASE, CASE.build())
    micro_batch = count(1)

    def at_forward(_module: Any, _args: Any) -> None:
        if next(micro_batch) == CASE.accumulate + 2:
            how()

    if rank.rank == failing:
        (stage,) = engine.module.forward_funcs
        stage.mod.register_forward_pre_hook(at_forward)
    for step in range(2):
        engine.train_batch(micro_batches(CASE, step))
        rank.say(step)


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize(("how", "status"), [(die, "died"), (fail, "error")])
def test_every_rank_ends(failing: int, how: Callable[[], None], status: str) -> None:
    done: list[int] = []
    ended = outcomes(train, 3, failing, how, on_message=lambda _rank, step: done.append(step))
    assert set(done) == {0}
    assert ended[failing].status == status
    others = [outcome for outcome in ended if outcome.rank != failing]
    assert [outcome.status for outcome in others] == ["error", "error"]
    for outcome in others:
        assert "gloo/transport" in outcome.detail
    if how is fail:
        assert "ArithmeticError: planted in a stage" in ended[failing].detail
    else:
        assert f"exit code {-signal.SIGKILL}" in ended[failing].detail


def hang(rank: Rank) -> None:
    signal.pause()


def fail_or_hang(rank: Rank) -> None:
    fail() if rank.rank == 0 else hang(rank)


def test_first_failure_ends_the_others_if_asked_to() -> None:
    ended = outcomes(fail_or_hang, 2, stop_at_failure=True)
    assert [outcome.status for outcome in ended] == ["error", "killed"]
    assert not multiprocessing.active_children()


def test_a_hang_is_told_from_an_error() -> None:
    """What the tests above would see if a rank waited for ever."""
    (outcome,) = outcomes(hang, 1, timeout=1.0)
    assert outcome.status == "hang"
    assert "in hang" in outcome.detail
