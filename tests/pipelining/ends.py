"""Processes that end, or are ended, while the others wait for them; a start of ranks for each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from pipecodec.demo.launch import Rank

from .faults import Here, meet
from .planted import Training, counted, trained

__all__ = ["ENDS", "end"]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Uncaught(BaseException):
    """Ends the process of a rank, as it is caught by no launcher."""


def in_a_forward(here: Here) -> None:
    training = trained(here)
    if here.fault:
        training.modules[-1].in_forward = counted(2, kill)
    training.step()


def in_a_backward_of_the_first_step(here: Here) -> None:
    training = Training(here)
    if here.fault:
        training.modules[0].in_backward = counted(2, kill)
    training.step()


def in_an_evaluation(here: Here) -> None:
    training = trained(here)
    if here.fault:
        training.modules[0].in_forward = counted(1, kill)
    training.eval()


def before_the_first_step(here: Here) -> None:
    training = Training(here)
    if here.fault:
        raise Uncaught("no such file")
    training.step()


def between_steps(here: Here) -> None:
    training = trained(here)
    if here.fault:
        raise Uncaught("no such file")
    training.step()


def after_closing_its_group(here: Here) -> None:
    training = trained(here)
    if here.fault:
        try:
            raise Uncaught("no such file")
        finally:
            dist.destroy_process_group()
    training.step()


def with_an_exit_code(here: Here) -> None:
    """As torch.multiprocessing.spawn ends a process of which a function raised."""
    training = trained(here)
    if here.fault:
        try:
            raise ArithmeticError("no such file")
        except ArithmeticError:
            sys.exit(1)
    training.step()


def after_fewer_steps(here: Here) -> None:
    training = trained(here)
    if not here.fault:
        training.step()


def without_shared_errors(here: Here) -> None:
    training = trained(here, share_errors=False)
    if here.fault:
        training.modules[0].in_forward = counted(1, kill)
    training.step()


ENDS: dict[str, tuple[Callable[[Here], None], str]] = {
    each.__name__: (each, read)
    for each, read in [
        (in_a_forward, "^RemoteError: the process of rank {0} ended.* inside .*step"),
        (
            in_a_backward_of_the_first_step,
            "^RemoteError: the process of rank {0} ended.* inside .*step",
        ),
        (in_an_evaluation, "^RemoteError: the process of rank {0} ended.* inside .*eval"),
        (
            before_the_first_step,
            "^RemoteError: rank {0}, whose process ends before its first call: Uncaught: no",
        ),
        (
            between_steps,
            "^RemoteError: rank {0}, whose process ends after .*step.*: Uncaught: no such file",
        ),
        (
            after_closing_its_group,
            # With rank 0's group ends the store that the error would be told in.
            "^RemoteError: (rank {0}, whose process ends after .*: Uncaught: no such file"
            "|the process of rank 0 ended, while .*with it went the store)",
        ),
        (
            with_an_exit_code,
            "^RemoteError: rank {0}, whose process ends after .*: ArithmeticError: no such file",
        ),
        (after_fewer_steps, "^RemoteError: the process of rank {0} ended.*step"),
        (without_shared_errors, "^RuntimeError: .*gloo/transport"),
    ]
}


def end(rank: Rank, name: str, layout: str, fault: int, folder: str) -> str:
    """Return the line that this rank reads; the process of rank ``fault`` ends."""
    dist.init_process_group("gloo")
    try:
        ENDS[name][0](Here(rank.rank, rank.world, layout, rank.rank == fault))
    except (Uncaught, SystemExit):
        raise
    except Exception as error:
        lived = Rank(rank.rank, rank.world - 1, rank.say)
        meet(lived, Path(folder), "told")
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""
