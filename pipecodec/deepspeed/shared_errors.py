"""Which calls of a DeepSpeed engine all ranks make, and where in them they meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from ..engine.failure import OF, SharedCalls
from ..engine.watcher import watcher

__all__ = ["SharedErrors", "no_shared_errors"]


class SharedErrors:
    """Lets the calls of this engine that all ranks make fail on all ranks with one error.

    A collective call makes one. All ranks have to ``meet`` before the engine's own collectives, so
    that none steps where another failed.

    The rank that fails raises its error as it is; on the others it is a ``RemoteError``, within
    seconds, with that error's text. An error that comes before a batch's first message, or outside
    of batches, and that every rank gets by itself, does no harm. After any other the engine is of
    no more use, and says so.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        own = engine.calls_on_all_ranks = self._calls = SharedCalls(watcher(), engine.stage_id)
        own.watcher.engines += 1
        self._which = f"engine {own.watcher.engines}'s " if own.watcher.engines > 1 else ""
        self._group: Any = dist.new_group(backend="gloo")
        self._seen: Any = ()

    def call(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AbstractContextManager[None]:
        """Return the context of a call of the engine's method with these arguments."""
        describe = _ALIKE.get(method)
        alike = "" if describe is None else OF + describe(self._engine, args, kwargs)
        return self._calls.call(self._which + method + alike)

    def before_schedule(self) -> None:
        """Note that this batch's messages are about to begin."""
        self._calls.busy = self._engine.num_stages > 1

    def meet(self, numbers: Sequence[int]) -> list[int]:
        """Meet all ranks on the host; returns the sums of their numbers."""
        self._calls.busy = True
        if len(self._seen) != len(numbers):
            self._sums = torch.zeros(len(numbers), dtype=torch.int64)
            self._seen = self._sums.numpy()  # the same memory
        self._seen[:] = numbers
        dist.all_reduce(self._sums, group=self._group)
        return [int(total) for total in self._seen]


def no_shared_errors(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AbstractContextManager[None]:
    """Do as ``SharedErrors.call`` for an engine whose ranks share no errors."""
    return nullcontext()


def _training(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"{engine.micro_batches} micro-batches"


_EVALUATION = ("data_iter", "return_logits", "compute_loss", "reduce_output", "bcast_loss",
               "num_micro_batches")  # fmt: skip


def _evaluation(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    given = {**dict(zip(_EVALUATION, args, strict=False)), **kwargs}
    count = given.get("num_micro_batches")
    told = given.get("compute_loss", True) and given.get("bcast_loss", True)
    return (
        f"{engine.micro_batches if count is None else count} micro-batches"
        f"{'' if told else ' whose loss stays on the last stage'}"
    )


_ALIKE: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], str]] = {
    "train_batch": _training,
    "eval_batch": _evaluation,
}
"""Text, by method, of the arguments that all ranks have to give alike: part of a call's name."""
