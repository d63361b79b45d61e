"""Turns a problem that one rank finds into an error on all of them."""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

import torch.distributed as dist

from .error_text import transportable

__all__ = ["gathered", "on_all_ranks", "raise_on_all_ranks", "raised_on_all_ranks"]

E = TypeVar("E", bound=BaseException)


def gathered(group: Any, value: Any) -> dict[int, Any]:
    """Return the picklable values of all ranks in ``group``, by rank; None: of all ranks.

    A collective call.
    """
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, value, group=group)
    ranks = range(len(everyone)) if group is None else dist.get_process_group_ranks(group)
    return dict(zip(ranks, everyone, strict=True))


def raise_on_all_ranks(problem: str | None, group: Any = None) -> None:
    """Raise ``ValueError``, the same on every rank, if any rank has a problem.

    A collective call of the ranks in ``group``, None: of all. The message has each problem with the
    ranks that have it.
    """
    everyone = gathered(group, None if problem is None else transportable(problem))
    ranks: dict[str, list[str]] = {}
    for rank, theirs in everyone.items():
        if theirs is not None:
            ranks.setdefault(theirs, []).append(str(rank))
    if ranks:
        raise on_all_ranks(
            ValueError(
                "; ".join(
                    f"{text} (rank{'s' * (len(who) > 1)} {', '.join(who)})"
                    for text, who in ranks.items()
                )
            )
        )


def on_all_ranks(error: E) -> E:
    """Mark an error that every rank raises by itself, so that no rank has to be told of it."""
    with contextlib.suppress(Exception):
        error.pipecodec_on_all_ranks = True  # type: ignore[attr-defined]
    return error


def raised_on_all_ranks(error: BaseException) -> bool:
    """Return whether ``on_all_ranks`` marked the error."""
    return getattr(error, "pipecodec_on_all_ranks", False) is True
