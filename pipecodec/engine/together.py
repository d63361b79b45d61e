"""Turns a problem that one rank finds into an error on all of them."""

from __future__ import annotations

import contextlib
from typing import TypeVar

import torch.distributed as dist

from .error_text import transportable

__all__ = ["on_all_ranks", "raise_on_all_ranks", "raised_on_all_ranks"]

E = TypeVar("E", bound=BaseException)


def raise_on_all_ranks(problem: str | None) -> None:
    """Raise ``ValueError``, the same on every rank, if any rank has a problem.

    A collective call. The message has each problem with the ranks that have it.
    """
    everyone: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, None if problem is None else transportable(problem))
    ranks: dict[str, list[str]] = {}
    for rank, theirs in enumerate(everyone):
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
