"""Messages between stages and waits of the host, counted in steps of a running engine."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.boundary.cases import COUNTED
from benchmarks.boundary.engines import MICRO_BATCHES, batches, engine_of
from benchmarks.boundary.ways import ways
from pipecodec.demo.launch import Rank

__all__ = ["Counts", "counted_waits", "in_each_way", "totals"]

_OPERATIONS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero")
_METHODS = ("cpu", "numpy", "tolist", "to")


@dataclass
class Counts:
    """The counts of one rank in one step.

    ``sent`` counts the engine's messages by (own stage, stage sent to), ``flags`` the messages of a
    few bytes from host to host beside a gradient, ``waits`` calls by name after which the host
    would wait for an accelerator. ``loss`` is the step's loss, which must be equal in all ways.
    """

    sent: Counter[tuple[int, int]] = field(default_factory=Counter)
    flags: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    loss: float = 0.0


class _Operations(TorchDispatchMode):
    """Notes operations, also those of C++ if torch dispatches them."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._opname in _OPERATIONS:
            self.note(func._opname)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count the calls of this thread that would make the host wait, if tensors were elsewhere.

    "_local_scalar_dense" is ``item()``, also within ``bool()``, ``int()`` and the like; "to" counts
    calls that name a device; "tensor" is ``torch.tensor``, whose data come from the host. On CPU
    tensors ``cpu`` and ``tolist`` dispatch nothing, so calls of Python are counted, and such calls
    in C++ are not seen. Calls inside a counted call are not counted.
    """
    seen: Counter[str] = Counter()
    within: list[str] = []

    def note(name: str) -> None:
        if not within:
            seen[name] += 1

    def counting(name: str, plain: Any) -> Any:
        @functools.wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "to" or _names_a_device(args[1:], kwargs):
                note(name)
            within.append(name)
            try:
                return plain(*args, **kwargs)
            finally:
                within.pop()

        return call

    patched = [(torch.Tensor, name) for name in _METHODS] + [(torch, "tensor")]
    with contextlib.ExitStack() as stack:
        for owner, name in patched:
            plain = getattr(owner, name)
            stack.callback(setattr, owner, name, plain)
            setattr(owner, name, counting(name, plain))
        stack.enter_context(_Operations(note))
        yield seen


def _names_a_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # A tensor names its own device.
    devices = (int, str, torch.device, torch.Tensor)
    return "device" in kwargs or isinstance(args[0] if args else None, devices)


def in_each_way(rank: Rank, stages: int) -> dict[str, dict[str, Counts]]:
    """Run in every rank: count one steady step for every case of COUNTED, in every way."""
    return {
        case.name: {way: _steady_step(engine_of(way, case, stages)) for way in ways(case)}
        for case in COUNTED
    }


def _steady_step(engine: Any) -> Counts:
    from deepspeed.runtime.pipe import p2p

    engine.train_batch(batches())
    counts, plain, plain_isend = Counts(), p2p.send, torch.distributed.isend

    def send(tensor: torch.Tensor, stage: int) -> Any:
        counts.sent[engine.stage_id, stage] += 1
        return plain(tensor, stage)

    def isend(*args: Any) -> Any:
        counts.flags += 1
        return plain_isend(*args)

    p2p.send, torch.distributed.isend = send, isend
    try:
        with counted_waits() as waits:
            loss = engine.train_batch(batches())
    finally:
        p2p.send, torch.distributed.isend = plain, plain_isend
    counts.waits, counts.loss = waits, loss.item()
    return counts


def totals(per_rank: list[Counts]) -> tuple[dict[str, float], list[Counter[str]]]:
    """Return messages "forward", "back" and "flags" for each micro-batch and boundary, and waits.

    Waits are by stage. Raises ``ValueError`` if boundaries differ, which they do not in a chain of
    equal stages.
    """
    found: dict[str, set[float]] = {"forward": set(), "back": set()}
    for counts in per_rank:
        for (stage, to), number in counts.sent.items():
            found["forward" if to > stage else "back"].add(number / MICRO_BATCHES)
    if any(len(each) != 1 for each in found.values()):
        raise ValueError(f"boundaries differ in their messages: {found}")
    messages = {name: each.pop() for name, each in found.items()}
    boundaries = len(per_rank) - 1
    messages["flags"] = sum(counts.flags for counts in per_rank) / MICRO_BATCHES / boundaries
    return messages, [counts.waits for counts in per_rank]
