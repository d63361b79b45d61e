"""All ranks compare their settings once, before anything of theirs is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

__all__ = ["agree"]


def agree(settings: Mapping[str, Any]) -> None:
    """Return if all ranks give equal ``settings``, whose keys are what messages call them.

    A collective call. Raises ``ValueError``, the same on every rank, with the first setting that
    differs, its values, and the ranks that have each of them.
    """
    if not dist.is_initialized():
        raise ValueError(
            "the ranks cannot compare their settings before torch.distributed is initialized; "
            "call deepspeed.init_distributed() first"
        )
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, dict(settings))
    for name in settings:
        values = [theirs.get(name) for theirs in everyone]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"ranks differ in {name}: {_by_value(values)}; give all ranks the same"
            )


def _by_value(values: list[Any]) -> str:
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(repr(value), []).append(str(rank))
    return "; ".join(
        f"{value} on rank{'s' * (len(who) > 1)} {', '.join(who)}" for value, who in ranks.items()
    )
