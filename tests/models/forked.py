"""Runs functions in forked processes, a few at a time, each with bounds on its time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

__all__ = ["Ended", "in_processes"]

Task = tuple[Any, Callable[[], Any]]


class Ended(RuntimeError):
    """A process that ended without an answer."""


def in_processes(
    tasks: Iterable[Task], *, at_a_time: int, seconds: int, gigabytes: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (key, result) for each (key, function), as they end; a result may be an Ended."""
    waiting = iter(tasks)
    running: dict[Connection, tuple[Any, ForkProcess]] = {}
    while True:
        while len(running) < at_a_time and (task := next(waiting, None)) is not None:
            key, function = task
            ours, theirs = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("fork").Process(
                target=bounded, args=(theirs, function, seconds, gigabytes)
            )
            process.start()
            theirs.close()
            running[ours] = key, process
        if not running:
            return
        for ready in wait(list(running)):
            assert isinstance(ready, Connection)
            key, process = running.pop(ready)
            try:
                result = ready.recv()
            except EOFError:
                process.join()
                result = Ended(ending(process.exitcode, seconds))
            process.join()
            ready.close()
            yield key, result


def bounded(answer: Connection, function: Callable[[], Any], seconds: int, gigabytes: int) -> None:
    signal.alarm(seconds)  # its default action ends the process, whatever it waits in
    resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        answer.send(function())


def ending(exitcode: int | None, seconds: int) -> str:
    if exitcode == -signal.SIGALRM:
        return f"took longer than {seconds} s"
    return f"the process ended with exit code {exitcode}"
