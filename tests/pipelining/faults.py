"""Cases in which one rank leaves the others waiting: many of them in one start of the ranks.

Each case has a process group of its own, since communication ends with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipecodec.demo.launch import Rank

__all__ = ["Case", "Cases", "Here", "at_fault", "meet", "run_cases"]

PATIENCE = 30.0
"""Seconds for which a rank waits for the others at the end of a case."""

_stores: list[Any] = []
"""Those of all cases so far: a watcher of one case looks there until the next one begins."""


@dataclass(frozen=True)
class Here:
    """A case as one rank sees it; ``fault`` tells whether it is the one at fault."""

    rank: int
    world: int
    layout: str
    fault: bool


@dataclass(frozen=True)
class Case:
    """``fault`` is the rank at fault: its number, or that of the "first" or "last" stage.

    It reads ``own``, the others ``others``: patterns for a line with an error's type and text, or
    "" where there is no error.
    """

    fault: int | str
    own: str
    others: str
    function: Callable[[Here], Any]


class Cases(dict[str, Case]):
    """Cases by name; called, it adds the function that it decorates."""

    def __call__(
        self, name: str, fault: int | str, own: str, others: str
    ) -> Callable[[Callable[[Here], Any]], Callable[[Here], Any]]:
        def add(function: Callable[[Here], Any]) -> Callable[[Here], Any]:
            assert name not in self
            self[name] = Case(fault, own, others, function)
            return function

        return add


def run_cases(rank: Rank, cases: Mapping[str, Case], layout: str, folder: str) -> dict[str, str]:
    """Return for each case the line of this rank's error, or ""."""
    found = {}
    for number, (name, case) in enumerate(cases.items()):
        rank.say(name)
        own = Path(folder, str(number))
        own.mkdir(exist_ok=True)
        fault = at_fault(case, layout, rank.world)
        here = Here(rank.rank, rank.world, layout, rank.rank == fault)
        found[name] = ""
        with joined(rank, own):
            try:
                case.function(here)
            except BaseException as error:
                found[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            meet(rank, own, "done")
    return found


def at_fault(case: Case, layout: str, world: int) -> int:
    """Return the rank at fault."""
    if isinstance(case.fault, int):
        return case.fault
    return world - 1 if case.fault == "last" and layout != "zbv" else 0


@contextmanager
def joined(rank: Rank, folder: Path) -> Iterator[None]:
    """Be in a process group of all ranks, whose store has a port that ``folder`` tells."""
    told = folder / "port"
    timeout = timedelta(seconds=PATIENCE)
    if rank.rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, rank.world, True, timeout, wait_for_workers=False)
        (folder / "writing").write_text(str(store.port))
        (folder / "writing").rename(told)
    else:
        _wait(told.exists)
        store = dist.TCPStore("127.0.0.1", int(told.read_text()), rank.world, False, timeout)
    _stores.append(store)
    dist.init_process_group("gloo", store=store, rank=rank.rank, world_size=rank.world)
    try:
        yield
    finally:
        with suppress(Exception):
            dist.destroy_process_group()


def meet(rank: Rank, folder: Path, name: str) -> None:
    """Wait for all ranks by files, since their communication may have ended."""
    (folder / f"{name} {rank.rank}").touch()
    _wait(lambda: len(list(folder.glob(f"{name} *"))) == rank.world)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "a rank did not come"
        time.sleep(0.01)
