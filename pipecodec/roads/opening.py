"""Opens roads: all ranks tell each other which ones they send, and each takes those it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist

from .. import _C
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

    Raises ``TypeError`` or ``ValueError`` on all ranks where a name is no text, two roads from one
    rank to another have one name, or only one end of a road is wanted.
    """
    own = dist.get_rank()
    writers = [_writer(each, timeout) if shared_memory else None for each in sending]
    offers = [None if writer is None else writer.offer for writer in writers]
    everyone = exchange(([*map(tuple, sending)], [*map(tuple, receiving)], offers))
    _check(everyone)
    offered = {
        (rank, name, peer): offer
        for rank, (sent, _, offers) in everyone.items()
        for (name, peer), offer in zip(sent, offers, strict=True)
    }
    tags = {key: first_tag + number for number, key in enumerate(sorted(offered))}
    receivers = [_receiver(each, offered[each.peer, each.name, own], timeout) for each in receiving]
    taken = [tuple(w) for w, road in zip(receiving, receivers, strict=True) if road is not None]
    answers = exchange((_C.this_process(), taken))
    senders: list[Sender] = []
    for wanted, writer in zip(sending, writers, strict=True):
        process, theirs = answers[wanted.peer]
        if writer is not None and (wanted.name, own) in map(tuple, theirs):
            writer.connect(process)
            senders.append(writer)
        else:
            tag = tags[own, wanted.name, wanted.peer]
            senders.append(MessageSender(wanted.name, wanted.peer, group, tag))
    return senders, [
        MessageReceiver(each.name, each.peer, group, tags[each.peer, each.name, own])
        if receiver is None
        else receiver
        for each, receiver in zip(receiving, receivers, strict=True)
    ]


def _writer(wanted: Wanted, timeout: float) -> RingSender | None:
    """Make a ring; None where this process gets no memory or file for it."""
    try:
        return RingSender(wanted.name, wanted.peer, timeout)
    except OSError:
        return None


def _receiver(wanted: Wanted, offer: Offer | None, timeout: float) -> RingReceiver | None:
    """Open a ring; None where it is another machine's."""
    if offer is None:
        return None
    try:
        return RingReceiver(wanted.name, wanted.peer, timeout, Offer(*offer))
    except OSError:
        return None


def _check(everyone: Mapping[int, Any]) -> None:
    """Raise the same error on all ranks where roads do not have one end on either side."""
    ends = {
        rank: {"sends": sent, "receives": received}
        for rank, (sent, received, _) in sorted(everyone.items())
    }
    for rank, both in ends.items():
        for verb, other in (("sends", "receives"), ("receives", "sends")):
            seen = set()
            for name, peer in both[verb]:
                road = f"rank {rank} {verb} road {name!r} {'to' if verb == 'sends' else 'from'}"
                if not isinstance(name, str):
                    raise TypeError(f"{road} rank {peer}: its name must be a text")
                if (name, peer) in seen:
                    raise ValueError(f"{road} rank {peer} twice: give each a name of its own")
                seen.add((name, peer))
                if (name, rank) not in map(tuple, ends[peer][other] if peer in ends else ()):
                    raise ValueError(f"{road} rank {peer}, which {other} none of that name")
