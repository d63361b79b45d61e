"""On which ranks the stages are, and which steps of a schedule are the same on all of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from ..engine.failure import OF
from ..engine.together import gathered, on_all_ranks

__all__ = ["found_owners", "name_of", "refuse_other_owners"]


def found_owners(own: Sequence[int], count: int, group: Any) -> list[int]:
    """Return the rank of each of ``count`` stages; ``own`` are those of this rank.

    A collective call. Raises ``ValueError``, the same on every rank, for a stage that was built on
    no rank, or on several.
    """
    everyone = gathered(group, list(own))
    owners = []
    for stage in range(count):
        ranks = [rank for rank, theirs in everyone.items() if stage in theirs]
        if len(ranks) != 1:
            found = f"ranks {ranks}" if ranks else "no rank"
            raise on_all_ranks(
                ValueError(
                    f"stage {stage} was built on {found} of the pipeline's group; build each stage "
                    f"on one, and give build_stage the group of one pipeline if there are several"
                )
            )
        owners.append(ranks[0])
    return owners


def refuse_other_owners(schedule: Any, stage: Any, owners: Sequence[int]) -> None:
    """Raise ``ValueError`` if a schedule with this ``stage`` runs stages on other ranks."""
    placed, group = stage.stage_index_to_group_rank, stage.group
    ranks = dist.get_process_group_ranks(group) if group is not None else None
    for index, owner in enumerate(owners):
        rank = placed[index] if ranks is None else ranks[placed[index]]
        if rank != owner:
            raise ValueError(
                f"{type(schedule).__name__} runs stage {index} on rank {rank}, but it was built on "
                f"rank {owner}; build the stages where the schedule has them"
            )


def name_of(schedule: Any) -> str:
    """Return the name of a schedule's next step, with all that ranks have to give alike."""
    kind = "step" if schedule._has_backward else "eval"
    name = f"{type(schedule).__name__}.{kind}{OF}{schedule._n_microbatches} micro-batches"
    if schedule._has_backward and not schedule.scale_grads:
        name += ", scale_grads=False"
    return name + _own_order(schedule)


def _own_order(schedule: Any) -> str:
    """Return a name for the order of work, unless it follows from torch's class."""
    cls = type(schedule)
    if cls.__module__.startswith("torch.") and not cls.__name__.startswith("_"):
        return ""
    order = getattr(schedule, "pipeline_order_with_comms", None) or schedule.pipeline_order
    known = vars(schedule).get("_pipecodec_order")
    if known is None or known[0] is not order:
        known = schedule._pipecodec_order = order, zlib.crc32(repr(order).encode())
    return f", order {known[1]:08x}"
