"""The cost of a micro-batch in each stage of a running engine, all ways in turn in one run."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.boundary.cases import TIMED, Case
from benchmarks.boundary.engines import MICRO_BATCHES, batches, engine_of
from benchmarks.boundary.ways import ways
from pipecodec.demo.launch import Rank

__all__ = ["PHASES", "Cost", "by_stage", "medians"]

PHASES = ("forward", "backward", "messages")
"""Kinds of engine instructions; "forward" loads the batch too, "messages" sends and receives."""

_PHASE_OF = {
    "LoadMicroBatch": "forward",
    "ForwardPass": "forward",
    "BackwardPass": "backward",
    "SendActivation": "messages",
    "RecvActivation": "messages",
    "SendGrad": "messages",
    "RecvGrad": "messages",
}

WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Medians over the steps, of one stage in one way.

    ``phases``: CPU time of the stage's own thread for each micro-batch, in us by PHASES; ``sum``
    is the median of their sums, ``added`` that of forward and backward without by hand's of the
    same step. ``step``: wall time of a step, in us.
    """

    phases: dict[str, float]
    sum: float
    added: float
    step: float


Steps = dict[str, list[dict[str, float]]]
"""Round by round, by way: us by phase for each micro-batch, and under "step" for the whole step."""


class _Meter:
    """Adds up the CPU time of this thread in an engine's instructions, by phase."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.nanoseconds = dict.fromkeys(PHASES, 0)
        self.steps: list[dict[str, float]] = []
        engine._INSTRUCTION_MAP = {
            instruction: self._timed(_PHASE_OF[instruction.__name__], method)
            if instruction.__name__ in _PHASE_OF
            else method
            for instruction, method in engine._INSTRUCTION_MAP.items()
        }

    def _timed(self, phase: str, method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> None:
            began = time.thread_time_ns()
            method(*args, **kwargs)
            self.nanoseconds[phase] += time.thread_time_ns() - began

        return call

    def step(self) -> None:
        self.nanoseconds = dict.fromkeys(PHASES, 0)
        began = time.perf_counter_ns()
        self.engine.train_batch(batches())
        wall = (time.perf_counter_ns() - began) / 1000
        self.steps.append({p: n / 1000 / MICRO_BATCHES for p, n in self.nanoseconds.items()})
        self.steps[-1]["step"] = wall


def by_stage(rank: Rank, number: int, stages: int, rounds: int) -> Steps:
    """Run in every rank: ``rounds`` steps of ``TIMED[number]`` in each way, the ways in turn."""
    case = TIMED[number]
    meters = {way: _Meter(engine_of(way, case, stages)) for way in ways(case)}
    for meter in meters.values():
        for _ in range(WARM_UP_STEPS):
            meter.step()
        meter.steps.clear()
    gc.collect()
    gc.disable()
    names = list(meters)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            meters[name].step()
    return {name: meter.steps for name, meter in meters.items()}


def medians(per_rank: list[Steps], case: Case) -> dict[str, list[Cost]]:
    """Return the costs of each way, stage by stage, from the results of all ranks."""
    hand = ways(case)[0]
    return {way: [_cost(steps[way], steps[hand]) for steps in per_rank] for way in ways(case)}


def _cost(steps: list[dict[str, float]], by_hand: list[dict[str, float]]) -> Cost:
    def stage(step: dict[str, float]) -> float:
        return step["forward"] + step["backward"]

    return Cost(
        phases={p: statistics.median(step[p] for step in steps) for p in PHASES},
        sum=statistics.median(sum(step[p] for p in PHASES) for step in steps),
        added=statistics.median(
            stage(own) - stage(other) for own, other in zip(steps, by_hand, strict=True)
        ),
        step=statistics.median(step["step"] for step in steps),
    )
