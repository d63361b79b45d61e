"""How two ranks open a channel: they tell each other through the store of torch.distributed."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ..codec import pack, unpack
from ..roads import Receiver, Sender, Wanted, open_roads
from .groups import sends

__all__ = ["FIRST_TAG", "TAGS", "Ends", "Meeting"]

FIRST_TAG = 0x70640000
"""Tag of the messages of the first channel between two ranks."""

TAGS = 4
"""Tags of each channel: one for each road, and one for the tensors behind their messages."""

_PREFIX = "pipecodec/channels"


class Ends(NamedTuple):
    """The roads of one rank's end, and the process group with tensors of the CPU."""

    sender: Sender
    receiver: Receiver
    host: Any

    def shut(self) -> None:
        """End both roads."""
        self.sender.shut()
        self.receiver.shut()


class Meeting:
    """Opens this rank's end of a channel in a thread, once the other rank makes its own.

    So ranks may make their channels in any order, such as a ring of ranks. ``number`` counts those
    of the two from 0, in the order in which they are made, which is the same on both.
    """

    def __init__(self, peer: int, group: Any, timeout: float, shared_memory: bool) -> None:
        self.own, self.peer = dist.get_rank(), peer
        self._group, self._timeout, self._shared_memory = group, timeout, shared_memory
        store: Any = distributed_c10d._get_default_store()
        self.number: int = store.add(f"{_PREFIX}/{self.own}/{peer}", 1) - 1
        low, high = sorted((self.own, peer))
        self._place = f"{_PREFIX}/{low}-{high}/{self.number}"
        self._steps = 0
        self._lock = threading.Lock()
        self._ends: Ends | None = None
        self._error: Exception | None = None
        self._given_up = False
        self._store: Any = None
        self._thread = threading.Thread(
            target=self._run, args=(store,), name=self._place, daemon=True
        )
        self._thread.start()

    @property
    def tag(self) -> int:
        """The first of this channel's tags."""
        return FIRST_TAG + TAGS * self.number

    def ends(self) -> Ends:
        """Wait until the other rank has made its end; raises the error that kept both apart."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._ends is not None
        return self._ends

    def give_up(self) -> None:
        """Shut the ends, now or once they are open."""
        with self._lock:
            self._given_up = True
            if self._ends is not None:
                self._ends.shut()

    def _run(self, store: Any) -> None:
        try:
            # A connection of its own: one that waits for a key is held until the key comes.
            self._store = store.clone()
            ends = self._open()
        except Exception as error:
            self._error = error
            return
        finally:
            self._store = None  # and its connection
        with self._lock:
            self._ends = ends
            if self._given_up:
                ends.shut()

    def _open(self) -> Ends:
        ranks = dist.get_process_group_ranks(self._group)
        theirs = self._exchange(ranks)[self.peer]
        if ranks != theirs:
            raise ValueError(
                f"the two ends of a channel have different groups: rank {self.own} gave that of "
                f"ranks {ranks}, rank {self.peer} that of ranks {theirs}"
            )
        host = self._group if sends(self._group, "cpu") else self._pair()
        wanted = [Wanted(f"channel {self.number}", self.peer)]
        (sender,), (receiver,) = open_roads(
            wanted,
            wanted,
            self._exchange,
            lambda: host,
            timeout=self._timeout,
            shared_memory=self._shared_memory,
            first_tag=self.tag,
        )
        return Ends(sender, receiver, host)

    def _exchange(self, value: Any) -> dict[int, Any]:
        """Return this rank's value and the other's, by rank."""
        (frame,) = pack(value)
        own, others = (f"{self._place}/{self._steps}/{rank}" for rank in (self.own, self.peer))
        self._steps += 1
        self._store.set(own, frame.numpy().tobytes())
        try:
            self._store.wait([others], timedelta(seconds=self._timeout))
        except RuntimeError as error:
            self._store.delete_key(own)
            raise TimeoutError(
                f"rank {self.peer} did not make its end of channel {self.number} with rank "
                f"{self.own} in {self._timeout:g} s: {str(error).splitlines()[0]}"
            ) from None
        read = bytearray(self._store.get(others))
        self._store.delete_key(others)
        return {self.own: value, self.peer: unpack([torch.frombuffer(read, dtype=torch.uint8)])}

    def _pair(self) -> Any:
        """Make a group of the two that sends tensors of the CPU.

        ``new_group`` would need all groups to be made in one order on both ranks, and one thread.
        """
        ranks = sorted((self.own, self.peer))
        store = distributed_c10d.PrefixStore(f"{self._place}/gloo", self._store)
        timeout = timedelta(seconds=self._timeout)
        pair: Any = dist.ProcessGroupGloo(store, ranks.index(self.own), 2, timeout)
        names: Any = distributed_c10d._world.pg_group_ranks
        names[pair] = {rank: place for place, rank in enumerate(ranks)}
        return pair
