"""One rank has all stages: one, or two of a loop or a V."""

from __future__ import annotations

from functools import partial
from typing import Any

from .schedules import SCHEDULES
from .stages import batch
from .training import Case
from .value_stages import EndSometimes, Everything, GivesTwo

__all__ = ["CASES"]


def stages(count: int) -> Any:
    return [Everything()] if count == 1 else [GivesTwo(), EndSometimes()]


CASES = {
    name: Case(
        stages=stages,
        batch=partial(batch, masked=False),
        schedule=name,
        evaluate=frozenset({0, 2}),
        worlds=(1,),
        within=0.0 if SCHEDULES[name].in_order else 1e-6,
    )
    for name in SCHEDULES
}
