"""A rank that fails ends the others: with an error, before their deadline, never with a hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from pipecodec.demo.launch import Rank

from .harness import outcomes
from .stages import Row, build
from .table import Grid, engine_of, micro_batches

ROW, GRID = Row(), Grid(3)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ArithmeticError("planted in a stage")


def train(rank: Rank, failing: int, how: Callable[[], None], linger: float) -> None:
    """Train two steps; rank ``failing`` does ``how`` in its second micro-batch of the second.

    After an error it stays alive for ``linger`` seconds.
    """
    engine = engine_of(ROW, build(ROW, 3), GRID)
    micro_batch = count(1)

    def at_forward(_module: Any, _args: Any) -> None:
        if next(micro_batch) == GRID.accumulate + 2:
            how()

    if rank.rank == failing:
        (stage,) = engine.module.forward_funcs
        stage.mod.register_forward_pre_hook(at_forward)
    for step in range(2):
        try:
            engine.train_batch(micro_batches(ROW, GRID, step))
        except Exception as error:
            rank.say(("error", type(error).__name__))
            time.sleep(linger)
            rank.say(("exit", rank.rank))
            raise
        rank.say(("step", step))


@pytest.mark.parametrize(("failing", "linger"), [(0, 3.0), (1, 0.0), (2, 0.0)])
def test_every_rank_ends_with_the_error_of_the_one_that_failed(failing: int, linger: float) -> None:
    """Also while the process that failed, and the store on rank 0 with it, lives on."""
    said: list[Any] = []
    ended = outcomes(train, 3, failing, fail, linger, on_message=lambda _, what: said.append(what))
    assert {step for kind, step in said if kind == "step"} == {0}
    errors = [name for kind, name in said if kind == "error"]
    assert sorted(errors) == ["ArithmeticError", "RemoteError", "RemoteError"]
    if linger:
        assert [kind for kind, _ in said[-6:]] == ["error"] * 3 + ["exit"] * 3
    assert [outcome.status for outcome in ended] == ["error"] * 3
    for outcome in ended:
        assert "ArithmeticError: planted in a stage" in outcome.detail
        if outcome.rank != failing:
            assert f"RemoteError: rank {failing}, stage {failing}:" in outcome.detail


@pytest.mark.parametrize("failing", range(3))
def test_every_rank_ends_when_one_is_killed(failing: int) -> None:
    ended = outcomes(train, 3, failing, die, 0.0)
    assert ended[failing].status == "died"
    assert f"exit code {-signal.SIGKILL}" in ended[failing].detail
    for outcome in ended:
        if outcome.rank != failing:
            assert outcome.status == "error"
            assert "gloo/transport" in outcome.detail


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
