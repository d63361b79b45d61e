"""Values that skip stages of several on a rank: read, written, replaced, shared and unused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .case import Case, sgd
from .stages import WIDTH, Last, Middle, batch, chain

LARGE = 4096
"""Elements of a table that is large enough to be a tensor of its own."""


class Begin(nn.Module):
    """Gives a hidden state, which is the skip too if ``one``, and a table of integers."""

    def __init__(self, *, one: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.unused = nn.Linear(WIDTH, WIDTH)
        self.one, self.table = one, torch.zeros(LARGE, dtype=torch.int64)

    def forward(self, ids: Tensor) -> Any:
        hidden = self.embed(ids)
        self.table.copy_(torch.arange(LARGE) + int(ids.sum()))  # the next micro-batch writes again
        skip = hidden if self.one else hidden * 2.0
        return {"hidden": hidden, "skip": skip, "lost": self.unused(hidden), "table": self.table}


class Between(Middle):
    """Does ``work`` on the values of its arguments too."""

    def __init__(self, work: Callable[..., Any]) -> None:
        super().__init__()
        self.work = work

    def forward(self, hidden: Tensor, skip: Tensor | None = None) -> Any:
        return {**super().forward(hidden), **self.work(hidden, skip)}


def write(hidden: Tensor, skip: Tensor) -> dict[str, Any]:
    skip.add_(1.0)
    return {}


def replace(hidden: Tensor, skip: Tensor) -> dict[str, Any]:
    return {"skip": hidden * 2}


class End(Last):
    """Uses the skip, the table and, of a value that is large, nothing."""

    def forward(self, hidden: Tensor, skip: Tensor, table: Tensor, lost: Tensor) -> Any:  # type: ignore[override]
        shift = (table[5] % 7).to(hidden.dtype)
        return super().forward(hidden + shift, skip)


def stages(work: Callable[..., Any] | None = None, *, one: bool = False) -> Any:
    """Return stages of which the second, or all between, do some work on the skip."""
    middle = Middle if work is None else lambda: Between(work)
    return chain(lambda: Begin(one=one), middle, End)


def case(schedule: str, *args: Any, one: bool = False, **settings: Any) -> Case:
    settings = {"optimizer": sgd, "steps": 2, **settings}
    return Case(stages(*args, one=one), batch_of_ids, schedule=schedule, **settings)


def batch_of_ids(*which: Any) -> Any:
    return batch(*which, masked=False)


LOOPS = ["Interleaved1F1B", "InterleavedZeroBubble"]
VS = ["ZBVZeroBubble", "DualPipeV"]
DECLARED = [["hidden", "skip", "lost", "table"], ["hidden"], ["hidden"], None]

CASES: dict[str, Case] = {}
for schedule in (*LOOPS, *VS, "LoopedBFS"):
    within = 1e-6 if schedule == "LoopedBFS" else 0.0
    CASES[f"{schedule}, passed by"] = case(schedule, evaluate=frozenset({0, 1, 2}), within=within)
for schedule in ("Interleaved1F1B", "ZBVZeroBubble"):
    CASES[f"{schedule}, declared"] = case(schedule, outputs=DECLARED)
    CASES[f"{schedule}, written"] = case(schedule, write)
    CASES[f"{schedule}, replaced"] = case(schedule, replace)
    # Its gradient has three summands, of which a link brings one by itself.
    CASES[f"{schedule}, one object"] = case(schedule, one=True, within=1e-6)
    CASES[f"{schedule}, sizes change"] = case(schedule, options={"dynamic_shape": True})
