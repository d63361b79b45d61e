"""Sends each case with all contenders in turn, to and fro between two processes."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.channel.cases import Case
from benchmarks.channel.contenders import CONTENDERS, missing
from benchmarks.measure import no_collection
from pipecodec.demo.launch import Rank

__all__ = ["Measured", "measured"]

Measured = dict[str, list[tuple[float, float]]]
"""For each contender and round: microseconds a message, elapsed and CPU time of this process."""


def measured(
    rank: Rank, cases: Sequence[Case], rounds: int
) -> list[tuple[Measured, dict[str, str]]]:
    """Run in both ranks; return the times of each case, and why contenders are missing."""
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    found = []
    for case in cases:
        if rank.rank == 0:
            rank.say(case.name)
        with no_collection():
            found.append(_case(rank.rank, case, rounds))
    dist.barrier()
    return found


def _case(own: int, case: Case, rounds: int) -> tuple[Measured, dict[str, str]]:
    example, changes = case.of(0), case.of(0).keys() != case.of(1).keys()
    absent = {name: why for name in CONTENDERS if (why := missing(name, example, changes))}
    ends = {name: make(1 - own, example) for name, make in CONTENDERS.items() if name not in absent}
    numbers = {name: count() for name in ends}
    times: Measured = {name: [] for name in ends}
    order = random.Random(0)
    for turn in range(rounds + 1):
        for name in order.sample(list(ends), len(ends)):
            send, recv = ends[name]
            values = [case.of(next(numbers[name])) for _ in range(case.messages)]
            dist.barrier()
            elapsed, cpu = time.perf_counter_ns(), time.process_time_ns()
            got: Any = None
            for value in values:
                if own == 0:
                    send(value)
                    got = recv()
                else:
                    got = recv()
                    send(value)
            cpu, elapsed = time.process_time_ns() - cpu, time.perf_counter_ns() - elapsed
            if turn == 0:  # warm; and all is there
                if not torch.equal(got["hidden"], values[-1]["hidden"]):
                    raise AssertionError(f"{name}: another value arrived")
                continue
            each = 2000 * case.messages
            times[name].append((elapsed / each, cpu / each))
    return times, absent
