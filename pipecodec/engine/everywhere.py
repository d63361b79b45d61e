"""Work that every rank does by itself, and that fails on all ranks if it fails on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from .error_text import summary
from .failure import RemoteError
from .together import on_all_ranks

__all__ = ["everywhere", "together"]

T = TypeVar("T")


def together(name: str, work: Callable[[], T]) -> T:
    """Call ``work`` on every rank and return this rank's result, once it succeeded on all.

    A collective call; ``work`` must not wait for other ranks. If it raises on any rank, whatever it
    raises, that rank raises its error and the others a ``RemoteError`` which says that ``name``
    failed, on which ranks and why. The ranks still talk to each other after that.
    """
    kept = []
    everywhere(name, lambda: kept.append(work()))
    return kept[0]


def everywhere(name: str, work: Callable[[], T]) -> list[T]:
    """Do as ``together``, and return the results of all ranks, which have to be picklable."""
    result, error = None, None
    try:
        result = work()
    except BaseException as caught:  # an interrupt too: the others wait for this rank
        error = caught
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (result, None if error is None else summary(error)))
    if error is not None:
        raise on_all_ranks(error)
    failed = [f"on rank {rank}: {text}" for rank, (_, text) in enumerate(everyone) if text]
    if failed:
        raise on_all_ranks(RemoteError(f"{name} failed {'; '.join(failed)}"))
    return [theirs for theirs, _ in everyone]
