"""Times all contenders of one structure in interleaved rounds."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.contenders import OURS, Contender
from benchmarks.loops import Fresh, Loop, Repeated
from benchmarks.results import Result, Row, quartiles
from benchmarks.structures import Structure

__all__ = ["LEAST_ROUNDS", "STRUCTURE_SECONDS", "measure", "no_collection"]

LEAST_ROUNDS = 3
STRUCTURE_SECONDS = 10
"""After LEAST_ROUNDS, no further round begins once a structure has taken so many seconds."""


class _Entrant:
    """One row to be: a contender in one mode, its two loops, and their times so far."""

    def __init__(self, contender: Contender, mode: str, send: Loop, receive: Loop) -> None:
        self.name, self.mode = contender.NAME, mode
        self.send, self.receive = send, receive
        self.times: list[tuple[float, float]] = []

    def time(self) -> None:
        self.times.append((self.send.time(), self.receive.time()))

    def row(self) -> Row:
        send, receive = zip(*self.times, strict=True)
        both = [sum(times) for times in self.times]
        return Row(self.name, self.mode, quartiles(send), quartiles(receive), quartiles(both))


def measure(
    structure: Structure,
    contenders: Sequence[Contender],
    rounds: int,
    left_out: dict[str, str] | None = None,
) -> Result:
    """Measure a structure with every contender, pipecodec also changing and in its first frame.

    Args:
        structure: what is sent.
        contenders: those whose packages are there, pipecodec first.
        rounds: at least 2; each times every contender once, in an order of its own. Fewer are
            measured where they take long, see STRUCTURE_SECONDS.
        left_out: reasons, by the names of contenders that are not to be measured here.
    """
    refused = dict(left_out or {})
    with no_collection():
        entrants = _entrants(structure, contenders, refused)
        order, done, start = random.Random(0), 0, time.monotonic()
        while done < rounds and (
            done < LEAST_ROUNDS or time.monotonic() - start < STRUCTURE_SECONDS
        ):
            for entrant in order.sample(entrants, len(entrants)):
                entrant.time()
            done += 1
        rows = [entrant.row() for entrant in entrants]
        *tensors, frame = OURS.make()[0](structure.value)
    return Result(structure, len(tensors), frame.numel(), done, rows, refused)


def _entrants(
    structure: Structure, contenders: Sequence[Contender], refused: dict[str, str]
) -> list[_Entrant]:
    """Return what is to be measured; contenders that cannot carry the value go to ``refused``."""
    entrants = _ours(structure)
    for contender in contenders:
        if contender is OURS or contender.NAME in refused:
            continue
        try:
            entrants.append(_repeated(contender, "steady", lambda n: [structure.value] * n))
        except Exception as error:
            refused[contender.NAME] = f"{type(error).__name__}: {error}"
    return entrants


def _ours(structure: Structure) -> list[_Entrant]:
    value, vary = structure.value, structure.vary
    entrants = [_repeated(OURS, "steady", lambda n: [value] * n)]
    if vary is not None:
        # At least two values: repeating a single one would be the steady state again.
        changing = _repeated(OURS, "changing", lambda n: [vary(i) for i in range(max(2, n))])
        entrants.append(changing)
    wire = OURS.make()[0](value)
    send, receive = Fresh(lambda: OURS.make()[0], value), Fresh(lambda: OURS.make()[1], wire)
    entrants.append(_Entrant(OURS, "first", send, receive))
    return entrants


def _repeated(contender: Contender, mode: str, values: Callable[[int], list[Any]]) -> _Entrant:
    send, receive = contender.make()
    return _Entrant(
        contender,
        mode,
        Repeated(send, values),
        Repeated(receive, lambda count: [send(value) for value in values(count)]),
    )


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector off, after one run of it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
