"""A group of a pipeline's ranks whose messages lie on the CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ..engine.together import gathered, on_all_ranks

__all__ = ["host_group"]


def host_group(group: Any) -> Any:
    """Return ``group`` if it sends tensors of the CPU, else another one of its ranks with gloo.

    A collective call of its ranks. torch finds the members of such a group by a name with the
    number of groups that each rank has: where these differ the ranks would wait for each other, so
    it is a ``ValueError`` on all of them.
    """
    known = dist.group.WORLD if group is None else group
    try:
        known._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    except RuntimeError:
        counts = gathered(group, len(distributed_c10d._world.pg_names))
        if len(set(counts.values())) > 1:
            raise on_all_ranks(
                ValueError(
                    "the pipeline's group sends no tensors of the CPU, and its ranks have made "
                    "different numbers of groups, so that they cannot make another one: start with "
                    'init_process_group("cpu:gloo,cuda:nccl")'
                )
            ) from None
        ranks = dist.get_process_group_ranks(known)
        return dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    return group
