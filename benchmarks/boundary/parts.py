"""The parts of the report: each runs its processes and gives JSON-ready values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.boundary import counting, storing, timing
from benchmarks.boundary.cases import HIDDEN_BYTES, TIMED
from benchmarks.boundary.engines import MICRO_BATCHES
from benchmarks.boundary.ways import BY_HAND
from pipecodec.demo.launch import run_ranks

__all__ = ["counts", "memory", "times"]

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

    Waits are by stage and name, those of the same stages written by hand taken off.
    """
    per_rank = _values(counting.in_each_way, stages, stages)
    found = []
    for name, ways in per_rank[0].items():
        rows = []
        for way in ways:
            messages, waits = counting.totals([rank[name][way] for rank in per_rank])
            by_hand = [rank[name][BY_HAND].waits for rank in per_rank]
            more = [
                {call: number / MICRO_BATCHES for call, number in (own - hand).items()}
                for own, hand in zip(waits, by_hand, strict=True)
            ]
            rows.append({"way": way, **messages, "waits": more})
        found.append({"case": name, "stages": stages, "rows": rows})
    return found


def memory() -> list[dict[str, Any]]:
    """Return the bytes that every case of STORED takes, by side."""
    (stored,) = _values(storing.of_every_case, 1)
    return [
        {
            "case": name,
            "differentiable_bytes": one.differentiable,
            "other_bytes": one.other,
            "sides": {
                side: {"peak": of.peak, "copied": of.total, "fewest": one.fewest[side]}
                for side, of in one.sides.items()
            },
        }
        for name, one in stored.items()
    ]


def _values(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Return what every rank returned; raises ``RuntimeError`` with the words of one that fails."""
    ended = run_ranks(function, world, *args, timeout=TIMEOUT, stop_at_failure=True)
    for outcome in ended:
        if outcome.status not in ("ok", "killed"):
            raise RuntimeError(f"rank {outcome.rank}: {outcome.status}\n{outcome.detail}")
    return [outcome.value for outcome in ended]
