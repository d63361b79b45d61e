"""Ranks that end or come no more, and ranks that are merely slow."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from .waiting_case import Cases, Hook, data, data_with, in_stage, in_step, trained

__all__ = ["ENDS", "SLOW"]

ENDS = case = Cases()
SLOW = slow = Cases()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


for _number in range(3):

    @case(f"rank {_number} is killed in a forward", _number, ends=True)
    def _(here: bool, fault: Any, folder: Path) -> None:
        in_stage(here, fault, _die)


@case("it is killed, and a worker that it forked lives on", 1, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    def fork_and_die() -> None:
        if os.fork() == 0:  # with copies of all connections, which therefore stay open
            time.sleep(5.0)
            os._exit(0)
        _die()

    in_stage(here, fault, fork_and_die)


@case("it is killed in a step that talks", 1, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    in_step(here, fault, _die, zero_optimization={"stage": 1})


@case("its data loader calls sys.exit", 0, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.train_batch(data_with(Hook(here, fault, sys.exit)))


def ends_early(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        raise SystemExit(0)
    engine.train_batch(data(1))


case("it ends with exit code 0 after fewer batches", 2, ends=True)(ends_early)
case("rank 0 ends with exit code 0 after fewer batches", 0, ends=True)(ends_early)


@case("it does nothing more after fewer batches (stall_timeout=3)", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained(stall_timeout=3)
    if here:
        fault()
    else:
        engine.train_batch(data(1))


def _slowly(here: bool) -> Any:
    return lambda: time.sleep(4.0) if here else None


@slow("its data loader", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.train_batch(data_with(Hook(here, fault, _slowly(here))))
    engine.eval_batch(data_with(Hook(here, fault, _slowly(here)), after=0))


@slow("its optimizer", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    in_step(here, fault, _slowly(here), zero_optimization={"stage": 1})


@slow("between calls, and its saving", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        time.sleep(4.0)  # between two calls
    save = engine.checkpoint_engine.save
    hook = Hook(here, fault, _slowly(here))
    engine.checkpoint_engine.save = lambda *args, **kwargs: [hook(), save(*args, **kwargs)][1]
    engine.save_checkpoint(str(folder))
    engine.train_batch(data(1))


@slow("before it calls again after an error of all", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    """Every rank gets an error by itself; then one takes its time."""
    engine = trained()
    try:
        engine.train_batch(data(1), 3)
    except TypeError:
        if here:
            time.sleep(4.0)
    engine.train_batch(data(1))
