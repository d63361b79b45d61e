"""Gives process groups one name on all ranks, also where one stage made groups alone.

torch names a group by how many groups the process has made before, and its members find each other
by that name. Where one stage made a group of its own, as layers of experts do, the next group of
all ranks has several names, and its members wait for each other.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

__all__ = ["align_group_names"]


def align_group_names() -> None:
    """Let the groups that all ranks make from here on have one name each.

    A collective call. Groups that exist keep their names.
    """
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, distributed_c10d._world.group_count)
    distributed_c10d._world.group_count = max(everyone)
