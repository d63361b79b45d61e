"""Runs all contenders of a case in turn, in the same processes."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from benchmarks.training.cases import Case, steps_of
from benchmarks.training.contenders import CONTENDERS
from pipecodec.demo.launch import Rank

__all__ = ["Times", "attempt", "in_one_process", "measured"]


@dataclass
class Times:
    """One contender on one rank: nanoseconds of each round, wall and CPU, and all losses."""

    wall: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)


def measured(rank: Rank, plan: Sequence[tuple[Case, Sequence[str]]]) -> list[dict[str, Times]]:
    """Run in every rank: each case with its contenders; rank 0 says the case that begins."""
    _join()
    results = []
    for case, names in plan:
        if rank.rank == 0:
            rank.say(str(case))
        results.append(_case(rank.rank, case, names))
        gc.unfreeze()
        gc.collect()
    dist.barrier()
    return results


def _case(rank: int, case: Case, names: Sequence[str]) -> dict[str, Times]:
    size, batches = case.size, steps_of(case.size)
    steps = {name: CONTENDERS[case.engine][name](case, rank, batches[0][0]) for name in names}
    times = {name: Times() for name in names}
    for name, step in steps.items():
        times[name].losses += [step(batch) for batch in batches[: size.warm_up]]
    gc.collect()
    gc.freeze()
    for turn in range(size.rounds):
        begin = size.warm_up + turn * size.steps
        own = batches[begin : begin + size.steps]
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            step, found = steps[name], times[name]
            dist.barrier()
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            losses = [step(batch) for batch in own]
            found.cpu.append(time.process_time_ns() - cpu)
            dist.barrier()
            found.wall.append(time.perf_counter_ns() - wall)
            found.losses += losses
    return times


def attempt(rank: Rank, case: Case, name: str) -> list[float | None]:
    """Run in every rank: one contender alone, in its first steps."""
    _join()
    batches = steps_of(case.size)
    step = CONTENDERS[case.engine][name](case, rank.rank, batches[0][0])
    return [step(batch) for batch in batches[: case.size.warm_up]]


def in_one_process(rank: Rank, given: Sequence[Case]) -> list[list[float]]:
    """Train the unsplit model of each case, and return its losses."""
    return [_whole(case) for case in given]


def _whole(case: Case) -> list[float]:
    from benchmarks.training.cases import optimizer

    model, losses = case.build(), []
    adam = optimizer(model.parameters())
    for batch in steps_of(case.size):
        total = torch.zeros(())
        for part in batch:
            loss = model(**part._asdict()).loss
            (loss / len(batch)).backward()
            total += loss.detach()
        adam.step()
        adam.zero_grad()
        losses.append((total / len(batch)).item())
    return losses


def _join() -> None:
    import deepspeed

    import pipecodec.deepspeed  # noqa: F401

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
