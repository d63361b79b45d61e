"""What was measured: quartiles, rows, and one result a structure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.road import Crossing
from benchmarks.structures import Structure

__all__ = ["LABELS", "Quartiles", "Report", "Result", "Row", "quartiles"]

MODES = ("steady", "changing", "first")


LABELS = (
    *(f"{OURS.NAME}, {mode}" for mode in MODES),
    *(contender.NAME for contender in CONTENDERS if contender is not OURS),
)
"""Of all rows there may be, in the order in which they are shown."""


class Quartiles(NamedTuple):
    """Of the rounds, in microseconds a call."""

    q1: float
    median: float
    q3: float


def quartiles(nanoseconds: Sequence[float]) -> Quartiles:
    """Return the quartiles of at least two times."""
    return Quartiles(*(value / 1000 for value in statistics.quantiles(nanoseconds, n=4)))


@dataclass(frozen=True)
class Row:
    """What one contender took.

    The mode is "steady" (the same value again), "changing" (a number in it differs) or "first" (a
    codec that has seen nothing yet). The other contenders remember nothing from call to call; they
    have the first one only.
    """

    contender: str
    mode: str
    send: Quartiles
    receive: Quartiles
    sum: Quartiles

    @property
    def label(self) -> str:
        """Return the contender's name, with the mode where there are several."""
        return f"{self.contender}, {self.mode}" if self.contender == OURS.NAME else self.contender


@dataclass(frozen=True)
class Result:
    """All rows of one structure.

    ``tensors`` counts those that cross beside the frame, ``frame_bytes`` has the padding included,
    and ``refused`` says by the contenders' names why there is no row of theirs.
    """

    structure: Structure
    tensors: int
    frame_bytes: int
    rounds: int
    rows: list[Row]
    refused: dict[str, str]

    def ours(self, mode: str) -> Row | None:
        """Return pipecodec's row of this mode, None where the structure has none."""
        ours = (row for row in self.rows if row.contender == OURS.NAME and row.mode == mode)
        return next(ours, None)

    def ratio(self, row: Row, mode: str) -> float | None:
        """Return the row's sum divided by that of pipecodec in this mode."""
        ours = self.ours(mode)
        return None if ours is None else round(row.sum.median / ours.sum.median, 3)


@dataclass(frozen=True)
class Report:
    """Results by part, and by the names of contenders that could not be measured at all, why.

    ``road`` is the part of this name.
    """

    results: dict[str, list[Result]]
    missing: dict[str, str]
    road: list[Crossing] = field(default_factory=list)
