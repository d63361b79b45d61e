"""What a process group can send, how long it waits, and which rank is in it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ..arguments import instance, whole_number

__all__ = ["faults", "group_of", "member", "sends"]


def group_of(caller: str, group: Any) -> Any:
    """Return the group, the default one for None; an error if this rank is in none."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"{caller} needs torch.distributed: call torch.distributed.init_process_group first"
        )
    if group is None:
        return dist.group.WORLD
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"group: rank {dist.get_rank()} is not in it")
    instance("group", group, dist.ProcessGroup, "a process group of torch.distributed, or None")
    if dist.get_rank() not in dist.get_process_group_ranks(group):
        raise ValueError(f"group: rank {dist.get_rank()} is not in it")
    return group


def member(argument: str, rank: Any, group: Any) -> int:
    """Return a rank; ``ValueError`` unless it is the global rank of a member of ``group``."""
    whole_number(argument, rank, "the global rank of a process", 0)
    ranks = dist.get_process_group_ranks(group)
    if rank not in ranks:
        raise ValueError(f"{argument} {rank} is not in the group, whose ranks are {ranks}")
    return int(rank)


def sends(group: Any, device_type: str) -> bool:
    """Return whether tensors of this type of device go through the group as they are.

    Gloo sends those of the CPU alone.
    """
    try:
        backend = group._get_backend(torch.device(device_type))
    except RuntimeError:
        return False
    return device_type == "cpu" or backend.name() != "gloo"


def faults(where: str, error: Exception) -> Exception:
    """Return a backend's error as one of Python's: ``TimeoutError`` or ``ConnectionError``."""
    if isinstance(error, (TimeoutError, ConnectionError)):
        return error
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    late = "timed out" in reason.lower() or "timeout" in reason.lower()
    kind = TimeoutError if late else ConnectionError
    return kind(f"{where}: {reason}")
