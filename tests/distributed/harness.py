"""Ranks for the engine tests: every rank must have ended well before anything is compared."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from pipecodec.demo.launch import Outcome, Rank, run_ranks

__all__ = ["TIMEOUT", "outcomes", "values", "wait_for_others"]

TIMEOUT = 60.0
"""Seconds until a rank dumps its stacks and ends; a case takes about one second."""

LIVES_ON = 20.0
"""Seconds for which a rank waits for others that do not come."""


@functools.cache
def start_server() -> None:
    """Start the server that ranks are forked from, with the tests' slow imports made once too."""
    modules = ["pipecodec.demo.preload", "tests.distributed.preload"]
    multiprocessing.set_forkserver_preload(modules)
    forkserver.ensure_running()


def outcomes(function: Callable[..., Any], world: int, *args: Any, **options: Any) -> list[Outcome]:
    """Run ``function(Rank, *args)`` in ``world`` processes and say how each of them ended."""
    start_server()
    return run_ranks(function, world, *args, **{"timeout": TIMEOUT, **options})


def values(function: Callable[..., Any], world: int, *args: Any, **options: Any) -> list[Any]:
    """Return the results of all ranks; an ``AssertionError`` shows each rank that did not.

    It begins with the last message of a rank, such as the name of the case that was begun.
    """
    said: list[Any] = [""]
    options["on_message"] = lambda _, message: said.append(message)
    ended = outcomes(function, world, *args, **options)
    failures = [f"rank {o.rank}: {o.status}\n{o.detail}" for o in ended if o.status != "ok"]
    assert not failures, f"after {said[-1]!r}\n" + "\n".join(failures)
    return [outcome.value for outcome in ended]


def wait_for_others(rank: Rank, folder: str, count: int) -> bool:
    """Live on until ``count`` ranks, this one too, have come here; False if they did not.

    It takes files of ``folder`` and no messages, so that it works after an error.
    """
    Path(folder, f"{rank.rank} is here").touch()
    deadline = time.monotonic() + LIVES_ON
    while len(list(Path(folder).glob("* is here"))) < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
