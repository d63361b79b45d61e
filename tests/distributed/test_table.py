"""Every kind of value crosses, and trains as in one process to the last bit."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from pipecodec.demo.launch import Outcome

from .harness import outcomes, values
from .rows import TABLES
from .table import STEPS, Grid, pipeline_rows, whole_rows
from .training import Result


@functools.cache
def pipeline(table: str, grid: Grid) -> tuple[list[Outcome], str]:
    """Train all rows in one set of processes; also names the row that was last begun."""
    begun: list[Any] = [""]
    ended = outcomes(
        pipeline_rows, grid.processes, table, grid, on_message=lambda _, row: begun.append(row)
    )
    return ended, begun[-1]


@functools.cache
def whole(table: str, grid: Grid) -> dict[str, Result]:
    (results,) = values(whole_rows, 1, table, grid)
    return results


def check(table: str, row: str, grid: Grid) -> None:
    ended, last = pipeline(table, grid)
    failures = [f"rank {o.rank}: {o.status}\n{o.detail}" for o in ended if o.status != "ok"]
    assert not failures, f"in the row {last!r}\n" + "\n".join(failures)
    expected = whole(table, grid)[row]
    assert len(set(expected.losses)) == STEPS
    together: dict[str, list[float]] = {}
    for outcome in ended:
        got = outcome.value[row]
        assert got.losses == expected.losses
        assert got.evaluations == expected.evaluations
        for name, weight in got.weights.items():
            assert together.setdefault(name, weight) == weight
    assert together == expected.weights


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("row", TABLES["kinds"])
def test_trains_as_in_one_process(row: str, stages: int) -> None:
    check("kinds", row, Grid(stages))


@pytest.mark.parametrize("row", TABLES["precisions"])
def test_optimizers_see_the_same_gradients(row: str) -> None:
    check("precisions", row, Grid(3))


@pytest.mark.parametrize("row", TABLES["precisions"])
def test_two_replicas_train_as_one_process_that_sums_each_first(row: str) -> None:
    check("precisions", row, Grid(2, replicas=2))


@pytest.mark.parametrize("row", TABLES["static kinds"])
def test_dual_pipe_v_trains_as_one_process(row: str) -> None:
    check("static kinds", row, Grid(4, schedule="dualpipev"))
