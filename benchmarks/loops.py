"""Inner loops: one call many times over, timed by this thread's CPU clock.

Each loop first makes calls that are not timed, so that the caches hold this contender's data and
no longer those of the one before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["LOOP_NS", "Fresh", "Loop", "Repeated"]

LOOP_NS = 1_000_000
"""CPU time that one inner loop should take: 1 ms, far above the cost of reading the clock."""

FRESH_CALLS = 50
"""The most calls in a loop of fresh ones: they take 25 us or more, reading the clock 0.5."""

Call = Callable[[Any], Any]


class Loop(Protocol):
    def time(self) -> float:
        """Run the loop once; return nanoseconds a call."""


class Repeated:
    """One call, for one argument after the other; ``arguments(n)`` makes n of them.

    A first call, which is not timed, gets the last argument, so that arguments that differ still do
    so at the first timed call.
    """

    def __init__(self, call: Call, arguments: Callable[[int], list[Any]]) -> None:
        def trial(count: int) -> float:
            self.arguments = arguments(count)
            return self.time()

        self.call = call
        self.arguments = arguments(_count(trial))

    def time(self) -> float:
        call = self.call
        call(self.arguments[-1])
        start = time.thread_time_ns()
        for argument in self.arguments:
            call(argument)
        return (time.thread_time_ns() - start) / len(self.arguments)


class Fresh:
    """A new call every time, for the same argument; ``make()`` makes them, which is not timed.

    All calls of a loop live until it ends, so they are few: many would measure the growth of the
    process's memory. Loops that are not timed come first, for about a quarter of LOOP_NS.
    """

    def __init__(self, make: Callable[[], Call], argument: Any) -> None:
        self.make = make
        self.argument = argument
        filling = _count(self._trial)
        self.count = min(FRESH_CALLS, filling)
        self.loops_before = math.ceil(filling / self.count / 4)

    def time(self) -> float:
        for _ in range(self.loops_before):
            self._trial(self.count)
        return self._trial(self.count)

    def _trial(self, count: int) -> float:
        calls = [self.make() for _ in range(count)]
        argument = self.argument
        start = time.thread_time_ns()
        for call in calls:
            call(argument)
        return (time.thread_time_ns() - start) / count


def _count(trial: Callable[[int], float]) -> int:
    """Return how many calls fill a loop; ``trial(n)`` runs n, in nanoseconds a call."""
    trial(1)  # cold: imports and caches made once must not count
    count = 1
    while (each := trial(count)) * count < LOOP_NS / 4:
        count *= 2
    return math.ceil(LOOP_NS / each)
