"""Torch's schedules train as one process does: values, gradients and weights, bit for bit."""

from __future__ import annotations

import pytest

from ..distributed.harness import values
from .training import on_schedule


@pytest.mark.parametrize(
    ("cases", "world"),
    [
        ("cases_schedules", 2),
        ("cases_schedules", 3),
        ("cases_split", 2),
        ("cases_values", 2),
        ("cases_values", 4),
        ("cases_modes", 2),
        ("cases_one_rank", 1),
        ("cases_ahead", 3),
    ],
)
def test_trains_as_one_process_does(cases: str, world: int) -> None:
    ranks = values(on_schedule, world, cases)
    different = {
        name: [rank[name] for rank in ranks] for name in ranks[0] if any(r[name] for r in ranks)
    }
    assert ranks[0]
    assert not different, "\n".join(f"{name}: {said}" for name, said in different.items())
