"""Every kind of value crosses, and trains as in one process to the last bit."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from pipecodec.demo.launch import Outcome

from .harness import outcomes, values
from .rows import ROWS
from .table import STEPS, pipeline_rows, whole_rows
from .training import Result


@functools.cache
def pipeline(stages: int) -> tuple[list[Outcome], str]:
    """Train all rows in one set of processes; also names the row that was last begun."""
    begun: list[Any] = [""]
    ended = outcomes(
        pipeline_rows, stages, list(ROWS), stages, on_message=lambda _, row: begun.append(row)
    )
    return ended, begun[-1]


@functools.cache
def whole(stages: int) -> dict[str, Result]:
    (results,) = values(whole_rows, 1, list(ROWS), stages)
    return results


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("row", ROWS)
def test_trains_as_in_one_process(row: str, stages: int) -> None:
    ended, last = pipeline(stages)
    failures = [f"rank {o.rank}: {o.status}\n{o.detail}" for o in ended if o.status != "ok"]
    assert not failures, f"in the row {last!r}\n" + "\n".join(failures)
    expected = whole(stages)[row]
    assert len(set(expected.losses)) == STEPS
    together: dict[str, list[float]] = {}
    for outcome in ended:
        got = outcome.value[row]
        assert got.losses == expected.losses
        assert got.evaluations == expected.evaluations
        together.update(got.weights)
    assert together == expected.weights
