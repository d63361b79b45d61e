"""An error on one rank becomes known on all of them.

All ranks make the same calls in one order (set-up, batches, checkpoints). A rank that fails in one
writes its error into the store that the ranks met in, and ends its communication, so that whoever
waits for it notices. Each rank has a ``Watcher`` beside, for failures that the failed rank cannot
report: that it ended, that it makes another call, or that it alone raised an error of its own.

No rank may step if another failed in the same batch. So all meet before gradients are reduced, in a
group on the host.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import CodeType, TracebackType
from typing import Any, TypeVar

import torch.distributed as dist

from ..roads import timeout_of
from .error_text import summary, trace
from .together import raised_on_all_ranks
from .watcher import Watcher, watcher

__all__ = ["OF", "RemoteError", "SharedCalls", "call_on_all_ranks", "set_up_on_all_ranks"]

F = TypeVar("F", bound=Callable[..., Any])

_PATIENCE = 3.0
"""Seconds in which the reason of a lost connection may become known."""

_COMMUNICATION = {"distributed_c10d.py", "_functional_collectives.py"}
"""Files of torch.distributed that communicate; others there, such as DTensor's, also compute."""

_WAITS = {"_batch_p2p", "_wait_batch_p2p"}
"""Functions of torch's schedules that communicate."""

_ROADS = os.path.join("pipecodec", "roads", "")
"""The folder of messages from host to host."""

OF = " of "
"""Parts the name of a method from the arguments that all ranks give alike."""


class RemoteError(RuntimeError):
    """Ends a call because another rank failed; holds that rank's error and its traceback."""


class SharedCalls:
    """The calls of an engine that all ranks make, and whether a batch's messages are under way."""

    def __init__(self, watcher: Watcher, stage: int | None) -> None:
        self.watcher = watcher
        self.place = f"rank {watcher.rank}" + ("" if stage is None else f", stage {stage}")
        self.busy = False

    def call(self, name: str) -> AbstractContextManager[None]:
        """Return the context of a call of which all ranks make one named ``name``.

        An error in it that follows from another rank's is raised as a ``RemoteError``.
        """
        # A call within a call is no call of its own.
        return nullcontext() if self.watcher.calls.inside else _Call(self, name)

    def begin(self, name: str) -> None:
        """Begin a call, if this rank can make one: ``RemoteError`` or ``RuntimeError`` if not."""
        watcher = self.watcher
        if watcher.failure:
            raise RuntimeError(
                f"{watcher.failure}, and the ranks of this engine talk no more; load a "
                "checkpoint in new processes"
            )
        if watcher.reason is None and watcher.calls.raised:
            watcher.wait_until_all_raised("micro-batches")
        if watcher.reason is not None:
            watcher.failure = f"another rank failed before {name}"
            raise RemoteError(watcher.reason)
        watcher.calls.enter(name)

    def failed(self, error: BaseException, name: str) -> str | None:
        """Return the other rank's error that this one follows from; None if it is this rank's."""
        watcher = self.watcher
        text = None
        if _lost_connection(error):
            text = watcher.ask(_PATIENCE)
            if text is None:
                watcher.report(
                    f"{self.place}: lost the connection to another rank, and none says why: "
                    f"{summary(error)}"
                )
        elif raised_on_all_ranks(error):
            watcher.calls.leave("=")
            return None
        else:
            mine = f"{self.place}: {summary(error)}\n\n{trace(error)}"
            if self.busy:
                different = watcher.differing()
                watcher.report(mine if different is None else f"{different}\n\n{mine}")
            elif watcher.reason is None:
                watcher.raised(mine)
                watcher.calls.leave("!")
                return None
        watcher.failure = f"{name.partition(OF)[0]} failed before ({type(error).__name__})"
        watcher.end_communication()
        watcher.calls.leave("!")
        return text


class _Call:
    """The context of one call."""

    def __init__(self, calls: SharedCalls, name: str) -> None:
        self._calls, self._name = calls, name

    def __enter__(self) -> None:
        self._calls.begin(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is not None:  # an interrupt too: the process may live on
                text = self._calls.failed(error, self._name)
                if text is not None and isinstance(error, Exception):
                    raise RemoteError(text) from error
        finally:
            self._calls.busy = False
        if error is None:
            self._calls.watcher.calls.leave()


def call_on_all_ranks(function: F) -> F:
    """Let a function of (engine, ...) that all ranks call be one of that engine's calls."""

    @functools.wraps(function)
    def call(engine: Any, *args: Any, **kwargs: Any) -> Any:
        own: SharedCalls | None = getattr(engine, "__dict__", {}).get("calls_on_all_ranks")
        with nullcontext() if own is None else own.call(function.__name__):
            return function(engine, *args, **kwargs)

    return call  # type: ignore[return-value]


def set_up_on_all_ranks(function: F) -> F:
    """Let ``initialize`` be a call of all ranks, with its ``share_errors``, ``stall_timeout``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (dist.is_initialized() and kwargs.get("share_errors", True)):
            return function(*args, **kwargs)
        own = SharedCalls(watcher(), None)
        stall_timeout = kwargs.get("stall_timeout")
        own.watcher.judge.stall_timeout = timeout_of() if stall_timeout is None else stall_timeout
        with own.call(function.__name__):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _lost_connection(error: BaseException) -> bool:
    """Return whether an error comes out of a communication, which another rank may have broken."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if _on_a_road(cause) or (isinstance(cause, RuntimeError) and _in_communication(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _on_a_road(error: BaseException) -> bool:
    """Return whether an error is that of a message from host to host."""
    code = _raised_in(error)
    kinds = (ConnectionError, TimeoutError)
    return isinstance(error, kinds) and code is not None and _ROADS in code.co_filename


def _raised_in(error: BaseException) -> CodeType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_code


def _in_communication(error: BaseException) -> bool:
    if isinstance(error, (dist.DistError, dist.DistNetworkError)):
        return True
    if "gloo/transport/" in summary(error):  # out of a backward pass that reduces gradients
        return True
    code = _raised_in(error)
    if code is None:
        return False
    _, _, place = code.co_filename.replace("\\", "/").rpartition("/torch/distributed/")
    if place == "pipelining/schedules.py":  # which raises errors of its own too
        return code.co_name in _WAITS
    return place in _COMMUNICATION
