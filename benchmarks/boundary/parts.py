"""The parts of the report: each runs its processes and gives JSON-ready values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.boundary import counting, storing, timing
from benchmarks.boundary.cases import HIDDEN_BYTES, TIMED
from benchmarks.boundary.engines import MICRO_BATCHES
from benchmarks.boundary.ways import BY_HAND, PIPECODEC
from pipecodec.demo.launch import run_ranks

__all__ = ["copies", "counts", "peaks", "times"]

TIMEOUT = 600.0
STEPS = {False: 200, True: 12}
"""For each way, by whether the hidden state is a large one."""


def times(stages: int, quick: bool) -> list[dict[str, Any]]:
    """Return the cost of a micro-batch for every case of TIMED, by way and stage.

    With ``quick`` only two steps each, and no large hidden state.
    """
    found = []
    for number, case in enumerate(TIMED):
        large = case.hidden_bytes == HIDDEN_BYTES
        if quick and large:
            continue
        steps = 2 if quick else STEPS[large]
        per_rank = _values(timing.by_stage, stages, number, stages, steps)
        costs = timing.medians(per_rank, case)
        rows = [
            {
                "way": way,
                "stage": stage,
                **{f"{phase}_us": cost.phases[phase] for phase in timing.PHASES},
                "sum_us": cost.sum,
                "added_us": cost.added,
                "ratio_to_by_hand": cost.sum / costs[BY_HAND][stage].sum,
                "step_us": cost.step,
                "step_ratio_to_by_hand": cost.step / costs[BY_HAND][stage].step,
            }
            for way in costs
            for stage, cost in enumerate(costs[way])
        ]
        found.append({"case": case.name, "stages": stages, "steps": steps, "rows": rows})
    return found


def counts(stages: int) -> list[dict[str, Any]]:
    """Return messages and waits for each micro-batch of every case of COUNTED, by way.

    Waits are by stage and name; "added" are those beyond the same stages' by hand.
    """
    per_rank = _values(counting.in_each_way, stages, stages)
    found = []
    for name, ways in per_rank[0].items():
        _, by_hand = counting.totals([rank[name][BY_HAND] for rank in per_rank])
        rows = []
        for way in ways:
            messages, waits = counting.totals([rank[name][way] for rank in per_rank])
            added = [own - hand for own, hand in zip(waits, by_hand, strict=True)]
            rows.append(
                {"way": way, **messages, "waits": _each(waits), "added_waits": _each(added)}
            )
        found.append({"case": name, "stages": stages, "rows": rows})
    return found


def _each(waits: list[Counter[str]]) -> list[dict[str, float]]:
    return [{call: n / MICRO_BATCHES for call, n in stage.items()} for stage in waits]


def copies() -> list[dict[str, Any]]:
    """Return the bytes that the codec copies for every case of STORED, by side."""
    (stored,) = _values(storing.copies, 1)
    return [
        {"case": name, **{side: of.total for side, of in sides.items()}}
        for name, sides in stored.items()
    ]


def peaks(stages: int) -> list[dict[str, Any]]:
    """Return the bytes of a step's peak for every case of STORED, by stage.

    "by_hand" is the peak by hand, "added" the bytes by which pipecodec's is higher.
    """
    per_rank = _values(storing.peaks, stages, stages)
    found = []
    for name in per_rank[0]:
        hand, own = ([rank[name][way].peak for rank in per_rank] for way in (BY_HAND, PIPECODEC))
        added = [o - h for o, h in zip(own, hand, strict=True)]
        found.append({"case": name, "stages": stages, "by_hand": hand, "added": added})
    return found


def _values(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Return every rank's result; raise ``RuntimeError`` with the error of one that fails."""
    ended = run_ranks(function, world, *args, timeout=TIMEOUT, stop_at_failure=True)
    for outcome in ended:
        if outcome.status not in ("ok", "killed"):
            raise RuntimeError(f"rank {outcome.rank}: {outcome.status}\n{outcome.detail}")
    return [outcome.value for outcome in ended]
