"""The exact bytes that a value takes on its way, in the codec alone and in the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from benchmarks.boundary.cases import STORED, Case
from benchmarks.boundary.engines import batches, engine_of
from benchmarks.boundary.ways import BY_HAND, PIPECODEC
from pipecodec.codec import TunnelCodec
from pipecodec.demo.launch import Rank

__all__ = ["SIDES", "Allocated", "allocations", "copies", "peaks"]

SIDES = ("send", "receive", "send back", "receive back")
"""Packing and unpacking a value, then packing and unpacking the received leaves' gradients."""


@dataclass
class Allocated:
    """CPU memory of tensors made within a block, in bytes: the peak, and the sum."""

    peak: int = 0
    total: int = 0


@contextlib.contextmanager
def allocations() -> Iterator[Allocated]:
    """Measure the memory that torch's CPU allocator gives out; filled in after the block.

    Memory from before does not count, not even when it is freed; the profiler then prints a note
    to the standard output.
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


def copies(rank: Rank) -> dict[str, dict[str, Allocated]]:
    """Run in one process: measure every case of STORED in a steady state, by side.

    Every byte that is allocated is written once, so ``total`` counts the bytes copied.
    """
    return {case.name: _crossing(case) for case in STORED}


def _crossing(case: Case) -> dict[str, Allocated]:
    codecs = TunnelCodec(transport="tunnel"), TunnelCodec(transport="tunnel")
    _micro_batch(case, *codecs)
    return _micro_batch(case, *codecs)


def _micro_batch(case: Case, sender: TunnelCodec, receiver: TunnelCodec) -> dict[str, Allocated]:
    hidden = torch.ones(case.shape, dtype=case.dtype, requires_grad=True)
    tensors = [t.detach() for t in case.tensors(hidden)]
    leaves = [hidden, *(t.requires_grad_() for t in tensors if t.is_floating_point())]
    value = case.give(hidden, tuple(tensors))
    sides = {}
    with allocations() as sides["send"]:
        sent = sender.send(value, None)
    # As the engine's: copies out of its buffer.
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
    return sides


def peaks(rank: Rank, stages: int) -> dict[str, dict[str, Allocated]]:
    """Run in every rank: measure this stage in a steady step of the engine, by case and way.

    The peak includes the buffer for gradients that the engine keeps from step to step.
    """
    found: dict[str, dict[str, Allocated]] = {}
    for case in STORED:
        for way in (BY_HAND, PIPECODEC):
            engine = engine_of(way, case, stages)
            engine.train_batch(batches())
            engine.train_batch(batches())
            kept = sum(buffer.nbytes for buffer in engine.grad_layer or ())
            with allocations() as allocated:
                engine.train_batch(batches())
            found.setdefault(case.name, {})[way] = allocated
            allocated.peak += kept
    return found
