"""Times all contenders of one structure, interleaved, by this thread's CPU time."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.contenders import OURS, Contender
from benchmarks.structures import Structure

__all__ = ["LOOP_NS", "Quartiles", "Result", "Row", "measure"]

LOOP_NS = 1_000_000
"""CPU time that one inner loop should take: 1 ms, far above what reading the clock costs."""

WARM_UP_CALLS = 20


class Quartiles(NamedTuple):
    """Of the rounds, in microseconds a call."""

    q1: float
    median: float
    q3: float


@dataclass(frozen=True)
class Row:
    """What one contender took; mode: the same value again ("steady") or "changing" ones."""

    contender: str
    mode: str
    send: Quartiles
    receive: Quartiles
    sum: Quartiles


@dataclass(frozen=True)
class Result:
    """All rows of one structure, and the bytes of pipecodec's frame (its padding included)."""

    structure: Structure
    frame_bytes: int
    rows: list[Row]


class _Side:
    """One call and the arguments of its inner loop."""

    def __init__(self, call: Callable[[Any], Any], arguments: Callable[[int], list[Any]]) -> None:
        for argument in arguments(WARM_UP_CALLS):
            call(argument)
        self.call = call
        self.arguments = arguments(2)
        while (spent := self.time() * len(self.arguments)) < LOOP_NS / 4:
            self.arguments = arguments(2 * len(self.arguments))
        count = max(1, math.ceil(len(self.arguments) * LOOP_NS / spent))
        self.arguments = arguments(count)

    def time(self) -> float:
        """Run the inner loop once; nanoseconds a call."""
        call = self.call
        start = time.thread_time_ns()
        for argument in self.arguments:
            call(argument)
        return (time.thread_time_ns() - start) / len(self.arguments)


class _Entrant:
    """One row to be: a contender with its two sides and their times so far."""

    def __init__(self, contender: Contender, mode: str, values: Callable[[int], list[Any]]) -> None:
        send, receive = contender.make()
        self.name = contender.NAME
        self.mode = mode
        self.send = _Side(send, values)
        self.receive = _Side(receive, lambda count: [send(value) for value in values(count)])
        self.times: list[tuple[float, float]] = []

    def time(self) -> None:
        self.times.append((self.send.time(), self.receive.time()))

    def row(self) -> Row:
        send, receive = zip(*self.times, strict=True)
        both = [sum(times) for times in self.times]
        return Row(self.name, self.mode, _quartiles(send), _quartiles(receive), _quartiles(both))


def measure(structure: Structure, contenders: Sequence[Contender], rounds: int) -> Result:
    """Measure a structure with every contender, pipecodec also with changing values.

    Args:
        structure: what is sent.
        contenders: those whose packages are there.
        rounds: at least 2; each times every contender once, and each begins with another one.
    """
    entrants = [_Entrant(c, "steady", lambda n: [structure.value] * n) for c in contenders]
    vary = structure.vary
    if vary is not None:
        # At least two values: repeating a single one would be the steady state again.
        changing = _Entrant(OURS, "changing", lambda n: [vary(i) for i in range(max(2, n))])
        entrants.insert(1, changing)
    with _no_collection():
        for turn in range(rounds):
            first = turn % len(entrants)
            for entrant in entrants[first:] + entrants[:first]:
                entrant.time()
    frame = OURS.make()[0](structure.value)[-1]
    return Result(structure, frame.numel(), [entrant.row() for entrant in entrants])


@contextmanager
def _no_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _quartiles(nanoseconds: Sequence[float]) -> Quartiles:
    return Quartiles(*(value / 1000 for value in statistics.quantiles(nanoseconds, n=4)))
