"""A problem that one rank finds is an error on all of them."""

from __future__ import annotations

import torch.distributed as dist

__all__ = ["fail_together"]


def fail_together(problem: str | None) -> None:
    """Raise ``ValueError``, the same on every rank, if any rank has a problem.

    A collective call. The message has each problem with the ranks that have it.
    """
    everyone: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, problem)
    ranks: dict[str, list[str]] = {}
    for rank, theirs in enumerate(everyone):
        if theirs is not None:
            ranks.setdefault(theirs, []).append(str(rank))
    if ranks:
        raise ValueError(
            "; ".join(
                f"{text} (rank{'s' * (len(who) > 1)} {', '.join(who)})"
                for text, who in ranks.items()
            )
        )
