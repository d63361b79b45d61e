"""Compares a rank's results with those of one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Trained", "difference"]


@dataclass
class Trained:
    """Results of a training, of a rank's stages or of all: losses, outputs, states, gradients."""

    losses: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    evaluations: list[Any] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    missing: list[frozenset[str]] = field(default_factory=list)


def difference(got: Trained, expected: Trained, within: float) -> str:
    """Say the first difference of a rank's results from those of one process, or nothing."""
    for step, (here, there) in enumerate(zip(got.missing, expected.missing, strict=True)):
        own = {name for name in there if name in got.states[step]}
        if here != own:
            return f"no gradient in step {step}: {sorted(here)} instead of {sorted(own)}"
    for step, (here, there) in enumerate(zip(got.states, expected.states, strict=True)):
        for name in here:
            if not _same(here[name], there[name], within):
                return f"{name} after step {step} by {(here[name] - there[name]).abs().max():.1e}"
    for kind in ("losses", "outputs", "evaluations"):
        here, there = getattr(got, kind), getattr(expected, kind)
        if here and not _same(here, there, within):
            return f"{kind} {here} instead of {there}"
    return ""


def _same(one: Any, other: Any, within: float) -> bool:
    leaves, spec = pytree.tree_flatten(one)
    others, other_spec = pytree.tree_flatten(other)
    return spec == other_spec and all(map(lambda a, b: _equal(a, b, within), leaves, others))


def _equal(one: Any, other: Any, within: float) -> bool:
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        if not within or not one.is_floating_point():
            return same and torch.equal(one, other)
        return same and torch.allclose(one, other, rtol=0.0, atol=within, equal_nan=True)
    if within and isinstance(one, float):
        return abs(one - other) <= within
    return bool(one == other)
