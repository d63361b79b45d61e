"""Bytes that packing and unpacking allocate and copy on both sides, to the last byte."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from benchmarks.boundary.cases import STORED, Case
from pipecodec.codec import TunnelCodec
from pipecodec.demo.launch import Rank

__all__ = ["SIDES", "Allocated", "Stored", "allocations", "crossing", "of_every_case"]

SIDES = ("send", "receive", "send back", "receive back")
"""Values packed and unpacked, then the gradients of what was received packed and unpacked."""


@dataclass
class Allocated:
    """CPU memory of tensors, in bytes: the most that was there at once, and all that was made."""

    peak: int = 0
    total: int = 0


@dataclass
class Stored:
    """What a value holds, and by SIDES what its way takes; in bytes.

    ``fewest`` is what has to be copied if there is one message each way: several leaves have to be
    gathered, and everything else can be a tensor over memory that is there.
    """

    differentiable: int
    other: int
    sides: dict[str, Allocated]
    fewest: dict[str, int]


@contextlib.contextmanager
def allocations() -> Iterator[Allocated]:
    """Find out what torch's CPU allocator gives out meanwhile; it is there after the ``with``.

    The profiler prints to the standard output, unasked.
    """
    found = Allocated()
    with profile(profile_memory=True) as profiler:
        yield found
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    held = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        found.peak = max(found.peak, held)
        found.total += max(0, event.nbytes())


def of_every_case(rank: Rank) -> dict[str, Stored]:
    """Run in one process: what every case of STORED takes in a steady state."""
    return {case.name: crossing(case) for case in STORED}


def crossing(case: Case) -> Stored:
    """Return what the second of two equal micro-batches takes.

    Every byte that is allocated is written once, frames apart, so ``total`` is what is copied.
    """
    codecs = TunnelCodec(transport="tunnel"), TunnelCodec(transport="tunnel")
    _micro_batch(case, *codecs)
    return _micro_batch(case, *codecs)


def _micro_batch(case: Case, sender: TunnelCodec, receiver: TunnelCodec) -> Stored:
    hidden = torch.ones(case.shape, dtype=case.dtype, requires_grad=True)
    tensors = [t.detach() for t in case.tensors(hidden)]
    leaves = [hidden, *(t.requires_grad_() for t in tensors if t.is_floating_point())]
    value = case.give(hidden, tuple(tensors))
    sides = {}
    with allocations() as sides["send"]:
        sent = sender.send(value, None)
    # The engine's: a copy out of its buffer.
    arrived = tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent)
    with allocations() as sides["receive"]:
        received, _ = receiver.receive(arrived)
    hidden, tensors = case.take(received)
    outputs = [hidden, *(t for t in tensors if t.is_floating_point())]
    gradients = [torch.ones_like(output) for output in outputs]
    with allocations() as sides["send back"]:
        (back,) = torch.autograd.grad(outputs, arrived[0], gradients)
    with allocations() as sides["receive back"]:
        torch.autograd.grad(sent[0], leaves, back)
    nbytes = sum(leaf.nbytes for leaf in leaves)
    gathered = nbytes if len(leaves) > 1 else 0
    return Stored(
        differentiable=nbytes,
        other=sum(t.nbytes for t in tensors if not t.is_floating_point()),
        sides=sides,
        fewest={"send": gathered, "receive": 0, "send back": gathered, "receive back": 0},
    )
