"""An error on one rank becomes known on all of them.

A rank that fails stops talking, and its neighbours find a closed connection, which says nothing of
why. So it writes its error into the store that the ranks met in, where they look for it.
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


def share_errors(engine: Any) -> None:
    """Let ``train_batch`` and ``eval_batch`` of this engine fail on all ranks with one error.

    The rank that fails raises its error as it is; on the others it is a ``RemoteError``, within
    seconds, with that error's text. Where the process of a rank is gone without a word, the others
    keep the error that tells of the lost connection.
    """
    store = distributed_c10d.PrefixStore("pipecodec/failure", distributed_c10d._get_default_store())
    noticeboard = _Noticeboard(store, engine.global_rank, engine.stage_id)
    for name in ("train_batch", "eval_batch"):
        setattr(engine, name, _watched(getattr(engine, name), noticeboard))


class _Noticeboard:
    """The first error of all ranks, in the store that they share."""

    def __init__(self, store: Any, rank: int, stage: int) -> None:
        self.store, self.rank, self.stage = store, rank, stage
        self.ranks = dist.get_world_size()

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
        try:
            return method(*args, **kwargs)
        except Exception as error:
            text = None
            with contextlib.suppress(Exception):  # the store may be gone with rank 0
                text = noticeboard.read(_PATIENCE if _lost_connection(error) else 0.0)
                if text is None:
                    noticeboard.write(error)
            if _lost_connection(error):  # its frames hold the process group and so its connections
                traceback.clear_frames(error.__traceback__)
            with contextlib.suppress(Exception):
                noticeboard.leave()
            if text is None:
                raise
            raise RemoteError(text) from error

    return call


def _lost_connection(error: Exception) -> bool:
    """True if the error comes out of a communication, which another rank may have broken."""
    frames = traceback.extract_tb(error.__traceback__)
    return "/torch/distributed/" in frames[-1].filename.replace("\\", "/")
