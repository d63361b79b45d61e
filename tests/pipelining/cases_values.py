"""Values of many kinds between stages, and stages that write into them or keep them."""

from __future__ import annotations

from typing import Any

from .case import Case
from .stages import batch
from .value_stages import VALUES

__all__ = ["CASES"]


def stages_of(kinds: Any) -> Any:
    return lambda count: [kind() for kind in kinds]


CASES = {
    f"{name}, {schedule}": Case(
        stages=stages_of(kinds),
        batch=lambda *args: batch(*args, masked=False),
        schedule=schedule,
        evaluate=frozenset({0, 1, 3}),
        worlds=(4,) if schedule == "1F1B" else (2,),
    )
    for name, kinds in VALUES.items()
    for schedule in ("1F1B", "Interleaved1F1B", "ZBVZeroBubble")
}
