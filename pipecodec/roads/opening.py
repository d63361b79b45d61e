"""Opens roads: all ranks tell each other which ones they send, and each takes those it can."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist

from .ends import Receiver, Sender
from .messages import FIRST_TAG, MessageReceiver, MessageSender
from .shared_memory import Offer, RingReceiver, RingSender

__all__ = ["Exchange", "Wanted", "open_roads"]

Exchange = Callable[[Any], Mapping[int, Any]]
"""Gives a picklable value to all ranks that open roads, and returns those of all, by rank."""


class Wanted(NamedTuple):
    """A road by its name, which both ends give alike, and the rank at its other end."""

    name: str
    peer: int


def open_roads(
    sending: Sequence[Wanted],
    receiving: Sequence[Wanted],
    exchange: Exchange,
    group: Callable[[], Any],
    *,
    timeout: float,
    shared_memory: bool = True,
    first_tag: int = FIRST_TAG,
) -> tuple[list[Sender], list[Receiver]]:
    """Open this rank's roads, and return their ends in the order of the arguments.

    All ranks of ``exchange`` call it together. ``group()`` gives the process group of roads that
    are messages, whose tensors lie on the CPU; without ``shared_memory`` all are. Whoever waits for
    a message, or for room, does so for ``timeout`` seconds. Two callers whose roads share the group
    give different tags from ``first_tag`` on, of which each road takes one.
    """
    own = dist.get_rank()
    writers: dict[Wanted, RingSender] = {}
    if shared_memory:
        writers = {each: RingSender(each.name, each.peer, timeout) for each in sending}
    offers = {each: writers[each].offer if each in writers else None for each in sending}
    everyone = exchange({(name, peer): offer for (name, peer), offer in offers.items()})
    numbers = {
        (rank, *key): number
        for number, (rank, key) in enumerate(
            (rank, key) for rank in sorted(everyone) for key in sorted(everyone[rank])
        )
    }
    readers: dict[Wanted, RingReceiver] = {}
    for each in receiving:
        offer: Offer | None = everyone[each.peer][each.name, own]
        try:
            if offer is not None:
                readers[each] = RingReceiver(each.name, each.peer, timeout, offer)
        except OSError:  # of another machine
            continue
    answers = exchange((os.getpid(), [(name, peer) for name, peer in readers]))
    senders: list[Sender] = []
    for each in sending:
        process, taken = answers[each.peer]
        if (each.name, own) in taken:
            writers[each].connect(process)
            senders.append(writers[each])
        else:
            tag = first_tag + numbers[own, each.name, each.peer]
            senders.append(MessageSender(each.name, each.peer, group, tag))
    receivers: list[Receiver] = [
        readers[each]
        if each in readers
        else MessageReceiver(
            each.name, each.peer, group, first_tag + numbers[each.peer, each.name, own]
        )
        for each in receiving
    ]
    return senders, receivers
