"""How two ranks open a channel: they tell each other through the store of torch.distributed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ..codec import pack, unpack

__all__ = ["Meeting", "host_group_of"]

_PREFIX = "pipecodec/channels"


class Meeting:
    """Values of two ranks, each told to the other; no other rank takes part.

    ``number`` counts the channels of the two from 0, in the order in which they are made: both
    ranks make them in the same order. Raises ``TimeoutError`` where the other rank does not come.
    """

    def __init__(self, peer: int, timeout: float) -> None:
        self.own, self.peer = dist.get_rank(), peer
        self._timeout = timedelta(seconds=timeout)
        store: Any = distributed_c10d._get_default_store()
        # A connection of its own: one that waits for a key is held until the key comes.
        self._store = store.clone()
        self._count = f"{_PREFIX}/{self.own}/{peer}"
        self.number: int = self._store.add(self._count, 1) - 1
        low, high = sorted((self.own, peer))
        self._place = f"{_PREFIX}/{low}-{high}/{self.number}"
        self._steps = 0

    def exchange(self, value: Any) -> dict[int, Any]:
        """Return this rank's value and the other's, by rank."""
        (frame,) = pack(value)
        own, others = (f"{self._place}/{self._steps}/{rank}" for rank in (self.own, self.peer))
        self._steps += 1
        self._store.set(own, frame.numpy().tobytes())
        try:
            self._store.wait([others], self._timeout)
        except RuntimeError as error:
            self._store.delete_key(own)
            self._store.add(self._count, -1)
            raise TimeoutError(
                f"rank {self.peer} did not make its end of this channel with rank {self.own} in "
                f"{self._timeout.total_seconds():g} s: {str(error).splitlines()[0]}"
            ) from None
        read = bytearray(self._store.get(others))
        self._store.delete_key(others)
        return {self.own: value, self.peer: unpack([torch.frombuffer(read, dtype=torch.uint8)])}


def host_group_of(group: Any, peer: int, meeting: Meeting, has_cpu: bool, timeout: float) -> Any:
    """Return ``group`` if it sends tensors of the CPU, else another one of the two ranks.

    Both give their group's ranks to each other before: ``ValueError`` on both where they differ, or
    where torch could not make a group of the two, whose members it finds by the number of groups.
    """
    ranks = dist.get_process_group_ranks(group)
    told = meeting.exchange((ranks, len(distributed_c10d._world.pg_names)))
    (mine, my_groups), (theirs, their_groups) = told[meeting.own], told[peer]
    if mine != theirs:
        raise ValueError(
            f"the two ends of a channel have different groups: rank {meeting.own} gave that of "
            f"ranks {mine}, rank {peer} that of ranks {theirs}"
        )
    if has_cpu:
        return group
    if my_groups != their_groups:
        raise ValueError(
            "the group sends no tensors of the CPU, and the two ranks have made different numbers "
            f"of groups ({my_groups} and {their_groups}), so that they cannot make another one: "
            'start with init_process_group("cpu:gloo,cuda:nccl")'
        )
    return dist.new_group(
        sorted((meeting.own, peer)),
        backend="gloo",
        timeout=timedelta(seconds=timeout),
        use_local_synchronization=True,
    )
