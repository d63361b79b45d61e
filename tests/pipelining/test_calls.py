"""A schedule takes inputs and targets of any form, and returns the model's own values."""

from __future__ import annotations

from ..distributed.harness import values
from .calls import CALLS, run_calls


def test_calls_of_a_schedule() -> None:
    assert values(run_calls, 2) == [len(CALLS)] * 2
