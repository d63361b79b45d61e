"""Every kind of value crosses, and trains as in one process to the last bit."""

from __future__ import annotations

import functools

import pytest

from .comparison import check
from .engines import Grid
from .harness import TIMEOUT, values
from .rows import TABLES
from .table import pipeline_rows, whole_rows
from .training import Trained


@functools.cache
def pipeline(table: str, grid: Grid) -> list[dict[str, Trained]] | AssertionError:
    """Train all rows in one set of processes."""
    timeout = TIMEOUT + 2 * len(TABLES[table])
    try:
        return values(pipeline_rows, grid.processes, table, grid, timeout=timeout)
    except AssertionError as error:  # which every row of the table is to show
        return error


@functools.cache
def whole(table: str, grid: Grid) -> dict[str, Trained]:
    (results,) = values(whole_rows, 1, table, grid)
    return results


def compare(table: str, row: str, grid: Grid) -> None:
    ranks, expected = pipeline(table, grid), whole(table, grid)[row]
    if isinstance(ranks, AssertionError):
        raise ranks
    assert len(set(expected.losses)) == len(expected.losses)
    check([rank[row] for rank in ranks], expected)


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("row", TABLES["kinds"])
def test_trains_as_in_one_process(row: str, stages: int) -> None:
    compare("kinds", row, Grid(stages))


@pytest.mark.parametrize("row", TABLES["precisions"])
def test_optimizers_see_the_same_gradients(row: str) -> None:
    compare("precisions", row, Grid(3))


@pytest.mark.parametrize("row", TABLES["precisions"])
def test_two_replicas_train_as_one_process_that_sums_each_first(row: str) -> None:
    compare("precisions", row, Grid(2, replicas=2))


@pytest.mark.parametrize("row", TABLES["static kinds"])
def test_dual_pipe_v_trains_as_one_process(row: str) -> None:
    compare("static kinds", row, Grid(4, schedule="dualpipev"))
