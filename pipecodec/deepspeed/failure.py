"""An error on one rank becomes known on all of them.

A rank that fails stops talking, and its neighbours find a closed connection, which says nothing of
why. So it writes its error into the store that the ranks met in, where they look for it.

Where nothing more goes between neighbours, ranks would wait for each other in collectives on groups
that the failed process keeps open. So all meet before those, in a group that a rank which fails
closes.
"""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

__all__ = ["RemoteError", "share_errors"]

_PATIENCE = 3.0
"""Seconds in which an error may become known: a rank writes it before it closes connections."""

_POLL = 0.05


class RemoteError(RuntimeError):
    """What another rank failed with; the message holds that rank's traceback."""


def share_errors(engine: Any) -> Callable[[], None]:
    """Let ``train_batch`` and ``eval_batch`` of this engine fail on all ranks with one error.

    A collective call. It returns a function in which all ranks meet on the host; they have to call
    it before the engine's own collectives, in which they might wait for one that failed.

    The rank that fails raises its error as it is; on the others it is a ``RemoteError``, within
    seconds, with that error's text; in the midst of a collective once the failed process ends.
    Where the process of a rank is gone without a word, the others keep the error that tells of the
    lost connection. After an error the engine is of no more use, and says so; one before a batch's
    first message, which every rank gets by itself, does no harm.
    """
    noticeboard = _Noticeboard(engine.global_rank, engine.stage_id)
    run_schedule = engine._exec_schedule

    def run(steps: Any) -> None:
        noticeboard.busy = True
        run_schedule(steps)

    engine._exec_schedule = run
    for name in ("train_batch", "eval_batch"):
        setattr(engine, name, _watched(getattr(engine, name), noticeboard))
    return noticeboard.meet


class _Noticeboard:
    """The first error of all ranks, in the store that they share."""

    def __init__(self, rank: int, stage: int) -> None:
        self.store = distributed_c10d.PrefixStore(
            "pipecodec/failure", distributed_c10d._get_default_store()
        )
        self.rank, self.stage = rank, stage
        self.ranks = dist.get_world_size()
        self.group: Any = dist.new_group(backend="gloo")
        self.busy = False  # between the first message of a batch and its end
        self.failure = ""

    def meet(self) -> None:
        """Return once all ranks are here; an error if one of them has left."""
        dist.barrier(group=self.group)

    def write(self, error: BaseException) -> bool:
        """Say what went wrong here; False if another rank was first."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        mine = f"rank {self.rank}, stage {self.stage}:\n{text}"
        written: bytes = self.store.compare_set("error", "", mine)
        return written.decode(errors="replace") == mine

    def read(self, patience: float) -> str | None:
        """Return what another rank wrote, or will have written in so many seconds."""
        deadline = time.monotonic() + patience
        while not self.store.check(["error"]):
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL)
        text: bytes = self.store.get("error")
        return text.decode(errors="replace")

    def leave(self) -> None:
        """Close this rank's connections, so that its neighbours notice, and let all of them read.

        The store lives in the process of rank 0, which therefore waits for the others.
        """
        self.store.add("done", 1)
        group, self.group = self.group, None
        dist.destroy_process_group(group)
        del group
        with contextlib.suppress(Exception):
            distributed_c10d._abort_process_group()
        deadline = time.monotonic() + _PATIENCE
        while self.rank == 0 and self.store.add("done", 0) < self.ranks:
            if time.monotonic() >= deadline:
                return
            time.sleep(_POLL)


def _watched(method: Callable[..., Any], noticeboard: _Noticeboard) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if noticeboard.failure:
            raise RuntimeError(
                f"{noticeboard.failure}, and the ranks of this engine talk no more; load a "
                "checkpoint in new processes"
            )
        try:
            result = method(*args, **kwargs)
            noticeboard.busy = False
            return result
        except BaseException as error:  # an interrupt too: the process may live on
            if not (noticeboard.busy or _lost_connection(error)):
                raise
            noticeboard.failure = f"{method.__name__} failed before ({type(error).__name__})"
            text = None
            with contextlib.suppress(Exception):  # the store may be gone with rank 0
                text = noticeboard.read(_PATIENCE if _lost_connection(error) else 0.0)
                if text is None:
                    noticeboard.write(error)
            if _lost_connection(error):  # its frames hold the process group and so its connections
                traceback.clear_frames(error.__traceback__)
            with contextlib.suppress(Exception):
                noticeboard.leave()
            if text is None or not isinstance(error, Exception):
                raise
            raise RemoteError(text) from error

    return call


def _lost_connection(error: BaseException) -> bool:
    """True if the error comes out of a communication, which another rank may have broken."""
    frames = traceback.extract_tb(error.__traceback__)
    return "/torch/distributed/" in frames[-1].filename.replace("\\", "/")
