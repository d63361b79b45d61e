"""The road that trains: leaves with gradients through one tunnel, beside the least torch can do."""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.loops import Fresh, Loop, Repeated
from pipecodec import Codec

__all__ = ["COUNTS", "MEASURES", "Crossing", "Way", "by_hand", "road", "through_codecs"]

COUNTS = (1, 3, 24, 300)
"""Of the leaves, each of 64 float32, which require gradients."""

SEND, RECEIVE, ALL = "send", "receive", "both, and both backward"
MEASURES = (SEND, RECEIVE, ALL)


@dataclass(frozen=True)
class Way:
    """``send`` turns leaves into what crosses, ``receive`` turns what arrived into leaves."""

    send: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
    receive: Callable[[tuple[Tensor, ...]], Sequence[Tensor]]

    def cross(self, leaves: tuple[Tensor, ...]) -> None:
        """Take leaves forward and ones back, with a cut between both sides as an engine has it."""
        sent = self.send(leaves)
        arrived = cut(sent)
        torch.autograd.backward(self.receive(arrived), _ones(len(leaves)))
        sent[0].backward(arrived[0].grad)


@dataclass(frozen=True)
class Crossing:
    """Medians over the rounds, CPU time of this thread: microseconds a call, ours and by hand."""

    leaves: int
    measure: str
    ours_us: float
    by_hand_us: float

    @property
    def ratio(self) -> float:
        """Return our time divided by that by hand."""
        return self.ours_us / self.by_hand_us


def through_codecs() -> Way:
    """Return the way of the engine's boundaries; ``send`` and ``receive`` have no token here."""
    sender, receiver = Codec(transport="tunnel"), Codec(transport="tunnel")
    return Way(sender.pack, receiver.unpack)


def by_hand() -> Way:
    """Return ``torch.cat``, and ``split`` with a ``clone`` of each.

    A view would keep all leaves' memory alive, and could not be worked on in place.
    """
    return Way(
        lambda leaves: (torch.cat(leaves),),
        lambda arrived: [leaf.clone() for leaf in arrived[0].split(64)],
    )


def cut(sent: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what arrives on the other side: the same numbers, without a history."""
    return tuple(t.detach().requires_grad_(t.is_floating_point()) for t in sent)


def road(rounds: int, counts: Sequence[int] = COUNTS) -> list[Crossing]:
    """Measure both ways for each number of leaves, in rounds that interleave everything."""
    order, found = random.Random(0), []
    for count in counts:
        loops = {
            (measure, k): loop
            for k, way in enumerate((through_codecs(), by_hand()))
            for measure, loop in _loops(way, count).items()
        }
        times: dict[tuple[str, int], list[float]] = {key: [] for key in loops}
        for _ in range(rounds):
            for key in order.sample(list(loops), len(loops)):
                times[key].append(loops[key].time() / 1000)
        found += [
            Crossing(count, m, *(statistics.median(times[m, k]) for k in (0, 1))) for m in MEASURES
        ]
    return found


def _loops(way: Way, count: int) -> dict[str, Loop]:
    leaves = tuple(torch.ones(64, requires_grad=True) for _ in range(count))
    sent = way.send(leaves)

    def receive() -> Callable[[Any], Any]:
        arrived = cut(sent)  # each is unpacked once
        return lambda _: way.receive(arrived)

    def cross() -> Callable[[Any], Any]:
        own = tuple(t.detach().requires_grad_() for t in leaves)
        return lambda _: way.cross(own)

    return {
        SEND: Repeated(way.send, lambda n: [leaves] * n),
        RECEIVE: Fresh(receive, None),
        ALL: Fresh(cross, None),
    }


@functools.cache
def _ones(count: int) -> list[Tensor]:
    return [torch.ones(64) for _ in range(count)]
