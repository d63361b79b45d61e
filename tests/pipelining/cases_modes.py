"""The ways to train and to evaluate: precision, checkpoints, compilation, grad modes, sizes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)

from .stages import First, Last, Middle, batch, chain
from .training import Case, sgd

__all__ = ["CASES"]

plain = partial(batch, masked=False)


def checkpointed(stages: Any, *, reentrant: bool, whole: bool) -> Any:
    """Wrap the parts of every stage, or every stage."""
    kind = CheckpointImpl.REENTRANT if reentrant else CheckpointImpl.NO_REENTRANT
    if whole:
        # Reentrant checkpoints need an input with a gradient, and return tensors, as torch says.
        inner = [checkpoint_wrapper(stage, kind) for stage in stages[1:-1]]
        return [stages[0], *inner, stages[-1]]
    for stage in stages:
        stage.linear = checkpoint_wrapper(stage.linear, kind)
    return stages


def compiled(count: int) -> Any:
    """Return compiled stages; code that autograd compiled gives zeros where nothing was used."""
    stages = chain()(count)
    for stage in stages:
        stage.compile(backend="aot_eager")
    return stages


def behind_compile(count: int) -> Any:
    return [torch.compile(stage, backend="aot_eager") for stage in chain()(count)]


def partly_compiled(stages: Any) -> Any:
    for stage in stages:
        stage.linear.compile(backend="aot_eager")
    return stages


def bfloat16(count: int) -> Any:
    return [stage.bfloat16() for stage in chain()(count)]


class PlainMiddle(Middle):
    def forward(self, hidden: Any) -> Any:
        return super().forward(hidden)["hidden"]


class Island(Middle):
    """Computes a part in full precision, within autocast."""

    def forward(self, hidden: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return super().forward(hidden.float())


WAYS: dict[str, dict[str, Any]] = {
    "evaluated without grad": {"evaluate": frozenset({0, 1, 3})},
    "evaluated in inference mode": {
        "evaluate": frozenset({0, 2, 3}),
        "grad_mode": torch.inference_mode,
    },
    "evaluated with grad": {"evaluate": frozenset({0, 1, 3}), "grad_mode": nullcontext},
    "accumulated": {"accumulate": 3},
    "accumulated, momentum": {"accumulate": 2, "optimizer": sgd, "evaluate": frozenset({1})},
    "checkpointed parts": {"wrap": partial(checkpointed, reentrant=False, whole=False)},
    "checkpointed parts, reentrant": {"wrap": partial(checkpointed, reentrant=True, whole=False)},
    "checkpointed stages": {"wrap": partial(checkpointed, reentrant=False, whole=True)},
    "checkpointed stages, reentrant": {
        "stages": chain(First, PlainMiddle, Last),
        "wrap": partial(checkpointed, reentrant=True, whole=True),
    },
    "compiled stages": {"stages": behind_compile, "evaluate": frozenset({1})},
    "compiled modules": {"stages": compiled, "evaluate": frozenset({1})},
    "compiled parts": {"wrap": partly_compiled},
    "autocast": {
        "around": partial(torch.autocast, "cpu", torch.bfloat16),
        "evaluate": frozenset({0, 1}),
    },
    "autocast, full precision inside": {
        "around": partial(torch.autocast, "cpu", torch.bfloat16),
        "stages": chain(middle=Island),
    },
    "bf16": {"stages": bfloat16, "evaluate": frozenset({1})},
}

REFUSED = {
    ("compiled stages", "ZBVZeroBubble"),
}
"""Refused by torch's schedule when it is made."""

CASES = {
    f"{name}, {schedule}": Case(
        **{
            "stages": chain(),
            "batch": plain,
            "schedule": schedule,
            "chunks": 4,
            **way,
        }
    )
    for name, way in WAYS.items()
    for schedule in ("1F1B", "ZBVZeroBubble")
    if (name, schedule) not in REFUSED
}
