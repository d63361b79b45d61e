"""An error on one rank becomes known on all of them.

All ranks make the same calls in one order (set-up, batches, checkpoints). A rank that fails in one
writes its error into the store that the ranks met in, and ends its communication, so that whoever
waits for it notices. Each rank has a ``Watcher`` beside, which sees what the failed rank cannot
say: that it ended, that it makes another call, or that it alone raised an error of its own.

No rank may step if another failed in the same batch. So all meet before gradients are reduced, in a
group on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from .error_text import summary, trace
from .together import raised_on_all_ranks
from .watcher import Watcher, default_timeout, watcher

__all__ = ["RemoteError", "call_on_all_ranks", "set_up_on_all_ranks", "share_errors"]

F = TypeVar("F", bound=Callable[..., Any])

_PATIENCE = 3.0
"""Seconds in which the reason of a lost connection may become known."""


_OF = " of "
"""Parts the name of a method from what of its arguments ranks give alike."""


class RemoteError(RuntimeError):
    """What another rank failed with; the message holds that rank's error and its traceback."""


class _Engine:
    """State of an engine's calls: its watcher, and whether a batch's messages are under way."""

    def __init__(self, watcher: Watcher, stage: int | None) -> None:
        self.watcher = watcher
        self.place = f"rank {watcher.rank}" + ("" if stage is None else f", stage {stage}")
        self.busy = False

    def run(self, name: str, method: Callable[[], Any]) -> Any:
        """Return ``method()``, a call of which all ranks make one named ``name``."""
        watcher = self.watcher
        if watcher.calls.inside:  # a call within a call is no call of its own
            return method()
        if watcher.failure:
            raise RuntimeError(
                f"{watcher.failure}, and the ranks of this engine talk no more; load a "
                "checkpoint in new processes"
            )
        if watcher.reason is not None:
            watcher.failure = f"another rank failed before {name}"
            raise RemoteError(watcher.reason)
        watcher.calls.enter(name)
        try:
            result = method()
        except BaseException as error:  # an interrupt too: the process may live on
            text = self._failed(error, name)
            if text is None or not isinstance(error, Exception):
                raise
            raise RemoteError(text) from error
        finally:
            self.busy = False
        watcher.calls.leave()
        return result

    def _failed(self, error: BaseException, name: str) -> str | None:
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
        watcher.failure = f"{name.partition(_OF)[0]} failed before ({type(error).__name__})"
        watcher.end_communication()
        watcher.calls.leave("!")
        return text


def share_errors(engine: Any) -> Callable[[bool], bool]:
    """Let the calls of this engine that all ranks make fail on all ranks with one error.

    A collective call. It returns a function in which all ranks meet on the host, and which tells
    whether any of them gave it True; they have to call it before the engine's own collectives, so
    that none steps where another failed.

    The rank that fails raises its error as it is; on the others it is a ``RemoteError``, within
    seconds, with that error's text. An error that comes before a batch's first message, or outside
    of batches, and that every rank gets by itself, does no harm. After any other the engine is of
    no more use, and says so.
    """
    own = _Engine(watcher(), engine.stage_id)
    own.watcher.engines += 1
    which = f"engine {own.watcher.engines}'s " if own.watcher.engines > 1 else ""
    engine.calls_on_all_ranks = own
    group: Any = dist.new_group(backend="gloo")
    anywhere = torch.zeros(1, dtype=torch.uint8)
    seen = anywhere.numpy()  # the same memory
    run_schedule = engine._exec_schedule

    def run(steps: Any) -> None:
        own.busy = engine.num_stages > 1
        run_schedule(steps)

    def meet(found: bool) -> bool:
        own.busy = True
        seen[0] = found
        dist.all_reduce(anywhere, dist.ReduceOp.MAX, group)
        return bool(seen[0])

    engine._exec_schedule = run
    for name, describe in _CALLS.items():
        setattr(engine, name, _numbered(engine, getattr(engine, name), own, which + name, describe))
    return meet


def call_on_all_ranks(function: F) -> F:
    """Let a function of (engine, ...) that all ranks call be one of that engine's calls."""

    @functools.wraps(function)
    def call(engine: Any, *args: Any, **kwargs: Any) -> Any:
        own: _Engine | None = engine.__dict__.get("calls_on_all_ranks")
        if own is None:
            return function(engine, *args, **kwargs)
        return own.run(function.__name__, lambda: function(engine, *args, **kwargs))

    return call  # type: ignore[return-value]


def set_up_on_all_ranks(function: F) -> F:
    """Let ``initialize`` be a call of all ranks, with its ``share_errors``, ``stall_timeout``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (dist.is_initialized() and kwargs.get("share_errors", True)):
            return function(*args, **kwargs)
        own = _Engine(watcher(), None)
        stall_timeout = kwargs.get("stall_timeout")
        own.watcher.judge.stall_timeout = (
            default_timeout() if stall_timeout is None else stall_timeout
        )
        return own.run(function.__name__, lambda: function(*args, **kwargs))

    return call  # type: ignore[return-value]


def _numbered(
    engine: Any,
    method: Callable[..., Any],
    own: _Engine,
    name: str,
    describe: Callable[[Any, tuple[Any, ...], dict[str, Any]], str],
) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if own.watcher.calls.inside:
            return method(*args, **kwargs)
        return own.run(name + describe(engine, args, kwargs), lambda: method(*args, **kwargs))

    return call


def _nothing(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return ""


def _training(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"{_OF}{engine.micro_batches} micro-batches"


_EVALUATION = ("data_iter", "return_logits", "compute_loss", "reduce_output", "bcast_loss",
               "num_micro_batches")  # fmt: skip


def _evaluation(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return what of ``eval_batch``'s arguments ranks have to give alike."""
    given = {**dict(zip(_EVALUATION, args, strict=False)), **kwargs}
    count = given.get("num_micro_batches")
    told = given.get("compute_loss", True) and given.get("bcast_loss", True)
    return (
        f"{_OF}{engine.micro_batches if count is None else count} micro-batches"
        f"{'' if told else ' whose loss stays on the last stage'}"
    )


_CALLS: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], str]] = {
    "train_batch": _training,
    "eval_batch": _evaluation,
    "reset_activation_shape": _nothing,
    "save_checkpoint": _nothing,
    "load_checkpoint": _nothing,
}
"""The methods that all ranks call alike, and how their arguments show in the calls' names."""


def _lost_connection(error: BaseException) -> bool:
    """Return whether an error comes out of a communication, which another rank may have broken."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, RuntimeError) and _in_communication(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _in_communication(error: BaseException) -> bool:
    trace = error.__traceback__
    if isinstance(error, (dist.DistError, dist.DistNetworkError)):
        return True
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    return "/torch/distributed/" in trace.tb_frame.f_code.co_filename.replace("\\", "/")
