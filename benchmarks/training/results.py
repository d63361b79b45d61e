"""The results of a case: ratios to the stages by hand, paired round by round, with quartiles."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.training.cases import ENGINES, MODELS, Case, steps_of
from benchmarks.training.contenders import BY_HAND
from benchmarks.training.running import Times

__all__ = ["LIMIT", "Quartiles", "Row", "as_json", "refused_row", "rows_of", "wrong"]

LIMIT = 1e-6
"""The largest difference in loss, in float32, that counts as the same training."""


class Quartiles(NamedTuple):
    """Quartiles over the rounds."""

    q1: float
    median: float
    q3: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.q1:.2f} to {self.q3:.2f})"


@dataclass(frozen=True)
class Row:
    """One contender in one case, or the error with which it fails.

    ``tokens`` is the number of tokens a second, without padding; ``wall`` and ``cpu`` are its times
    over those of the stages by hand in the same round, the CPU time that of all ranks;
    ``difference`` is the largest in any loss from that of one process.
    """

    case: Case
    contender: str
    tokens: float = float("nan")
    wall: Quartiles | None = None
    cpu: Quartiles | None = None
    difference: float = float("nan")
    error: str = ""


def rows_of(case: Case, ranks: Sequence[dict[str, Times]], alone: Sequence[float]) -> list[Row]:
    """Return a row for each contender that ran; ``ranks`` have the times of each rank."""
    size = case.size
    batches = steps_of(size)[size.warm_up :]
    counted = [sum(int(b.attention_mask.sum()) for b in batch) for batch in batches]
    rounds = [
        sum(counted[k : k + size.steps]) for k in range(0, size.rounds * size.steps, size.steps)
    ]
    rows = []
    walls, cpus = _times(ranks, BY_HAND)
    for name in ranks[0]:
        wall, cpu = _times(ranks, name)
        speed = [tokens / time * 1e9 for tokens, time in zip(rounds, wall, strict=True)]
        losses = ranks[-1][name].losses
        apart = [
            float("nan") if loss is None else abs(loss - expected)
            for loss, expected in zip(losses, alone, strict=True)
        ]
        rows.append(
            Row(
                case,
                name,
                statistics.median(speed),
                _ratios(wall, walls),
                _ratios(cpu, cpus),
                max(apart, key=lambda difference: (difference != difference, difference)),
            )
        )
    return rows


def _times(ranks: Sequence[dict[str, Times]], name: str) -> tuple[list[int], list[int]]:
    """Return the wall time of each round, on rank 0, and the CPU time of all ranks."""
    cpu = [sum(times) for times in zip(*(rank[name].cpu for rank in ranks), strict=True)]
    return ranks[0][name].wall, cpu


def _ratios(times: Sequence[int], by_hand: Sequence[int]) -> Quartiles:
    paired = [time / other for time, other in zip(times, by_hand, strict=True)]
    return Quartiles(*statistics.quantiles(paired, n=4, method="inclusive"))


def refused_row(case: Case, contender: str, error: str) -> Row:
    """Return the row of a contender that cannot train a case."""
    return Row(case, contender, error=error)


def wrong(row: Row) -> bool:
    """Tell whether a contender trained otherwise than one process."""
    return not row.error and not row.difference <= LIMIT


def as_json(row: Row) -> dict[str, Any]:
    """Return a row as JSON-ready values."""
    case = row.case
    found: dict[str, Any] = {
        "model": MODELS[case.model],
        "size": case.size.name,
        "stages": case.stages,
        "engine": ENGINES[case.engine],
        "contender": row.contender,
    }
    if row.error:
        return {**found, "error": row.error}
    return {
        **found,
        "tokens_per_second": round(row.tokens, 1),
        "wall_to_by_hand": row.wall and row.wall._asdict(),
        "cpu_to_by_hand": row.cpu and row.cpu._asdict(),
        "loss_difference": row.difference,
        "rounds": case.size.rounds,
        "steps_in_a_round": case.size.steps,
    }
