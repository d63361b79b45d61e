"""A rank that fails ends the others: with an error, before their deadline, never with a hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecodec.demo.launch import Rank

from .engines import Grid
from .harness import outcomes, values, wait_for_others
from .stages import Row, build
from .table import engine_of, micro_batches

ROW, GRID = Row(), Grid(3)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ArithmeticError("planted in a stage")


def in_forward(engine: Any, how: Callable[[], None]) -> None:
    """Do ``how`` in the second micro-batch of the second step."""
    (stage,) = engine.module.forward_funcs
    micro_batch = count(1)

    def hook(_module: Any, _args: Any) -> None:
        if next(micro_batch) == GRID.accumulate + 2:
            how()

    stage.mod.register_forward_pre_hook(hook)


def in_backward(engine: Any, how: Callable[[], None]) -> None:
    """Do ``how`` in the last backward of the second step, before which all is received."""
    (stage,) = engine.module.forward_funcs
    parameter = next(stage.mod.parameters())
    micro_batch = count(1)

    def hook(_gradient: Any) -> None:
        if next(micro_batch) == 2 * GRID.accumulate:
            how()

    parameter.register_hook(hook)


def in_step(engine: Any, how: Callable[[], None]) -> None:
    """Do ``how`` in the second step of the optimizer."""
    step, inner = count(1), engine.basic_optimizer

    def hook(*_args: Any) -> None:
        if next(step) == 2:
            how()

    inner.register_step_pre_hook(hook)


def train(rank: Rank, failing: int, where: Any, how: Callable[[], None], folder: str) -> None:
    """Train two steps; rank ``failing`` does ``how`` in the second.

    After an error each rank stays alive, if there is a ``folder``, until all have one.
    """
    engine = engine_of(ROW, build(ROW, 3), GRID)
    if rank.rank == failing:
        where(engine, how)
    for step in range(2):
        try:
            engine.train_batch(micro_batches(ROW, GRID, step))
        except Exception as error:
            rank.say(("error", type(error).__name__))
            with pytest.raises(RuntimeError, match="train_batch failed before .*new processes"):
                engine.eval_batch(micro_batches(ROW, GRID, step))
            if folder:
                rank.say(("all have one", wait_for_others(rank, folder, rank.world)))
            raise
        rank.say(("step", step))


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("where", [in_forward, in_backward, in_step])
def test_every_rank_ends_with_the_error_of_the_one_that_failed(
    where: Any, failing: int, tmp_path: Path
) -> None:
    """Also while the process that failed, and the store on rank 0 with it, lives on."""
    said: list[Any] = []
    ended = outcomes(
        train, 3, failing, where, fail, str(tmp_path), on_message=lambda _, what: said.append(what)
    )
    assert {step for kind, step in said if kind == "step"} == {0}
    errors = [name for kind, name in said if kind == "error"]
    assert sorted(errors) == ["ArithmeticError", "RemoteError", "RemoteError"]
    assert [reached for kind, reached in said if kind == "all have one"] == [True] * 3
    assert [outcome.status for outcome in ended] == ["error"] * 3
    for outcome in ended:
        assert "ArithmeticError: planted in a stage" in outcome.detail
        if outcome.rank != failing:
            assert f"RemoteError: rank {failing}, stage {failing}:" in outcome.detail


@pytest.mark.parametrize(
    ("where", "failing"),
    [(in_forward, 0), (in_forward, 1), (in_forward, 2), (in_backward, 0), (in_step, 1)],
)
def test_every_rank_ends_when_one_is_killed(where: Any, failing: int) -> None:
    ended = outcomes(train, 3, failing, where, die, "")
    assert ended[failing].status == "died"
    assert f"exit code {-signal.SIGKILL}" in ended[failing].detail
    for outcome in ended:
        if outcome.rank != failing:
            assert outcome.status == "error"
            assert "gloo/transport" in outcome.detail


def interrupted(rank: Rank, kind: type[BaseException], folder: str) -> tuple[str, str, bool]:
    """Train until ``kind`` is raised in a forward on rank 1, whose process lives on."""
    engine = engine_of(ROW, build(ROW, 3), GRID)

    def interrupt() -> None:
        raise kind("planted")

    if rank.rank == 1:
        in_forward(engine, interrupt)
    with pytest.raises(BaseException) as caught:
        for step in range(2):
            engine.train_batch(micro_batches(ROW, GRID, step))
    with pytest.raises(RuntimeError, match="train_batch failed before"):
        engine.train_batch(micro_batches(ROW, GRID, 2))
    reached = wait_for_others(rank, folder, rank.world)
    return type(caught.value).__name__, str(caught.value), reached


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_every_rank_is_told_of_an_interrupt(kind: type[BaseException], tmp_path: Path) -> None:
    ended = values(interrupted, 3, kind, str(tmp_path))
    assert ended[1] == (kind.__name__, "planted", True)
    for name, message, reached in (ended[0], ended[2]):
        assert reached
        assert name == "RemoteError" and f"{kind.__name__}: planted" in message


def refused(rank: Rank) -> float:
    engine = engine_of(ROW, build(ROW, 3), GRID)
    with torch.no_grad(), pytest.raises(RuntimeError, match="requires gradients enabled"):
        engine.train_batch(micro_batches(ROW, GRID, 0))
    return engine.train_batch(micro_batches(ROW, GRID, 0)).item()


def test_an_error_before_the_first_message_does_no_harm() -> None:
    assert len(set(values(refused, 3))) == 1


def hang(rank: Rank) -> None:
    signal.pause()


def fail_or_hang(rank: Rank) -> None:
    fail() if rank.rank == 0 else hang(rank)


def test_first_failure_ends_the_others_if_asked_to() -> None:
    ended = outcomes(fail_or_hang, 2, stop_at_failure=True)
    assert [outcome.status for outcome in ended] == ["error", "killed"]
    assert not multiprocessing.active_children()


def test_a_hang_is_told_from_an_error() -> None:
    """The tests above would see this outcome if a rank waited for ever."""
    (outcome,) = outcomes(hang, 1, timeout=1.0)
    assert outcome.status == "hang"
    assert "in hang" in outcome.detail
