"""Compares the results of a pipeline's ranks with the same training in one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .training import Trained, Weights

__all__ = ["check", "distance", "first_difference"]


def check(ranks: Sequence[Trained], expected: Trained, within: float = 0.0) -> None:
    """Fail unless all is equal to the last bit, or losses and weights differ by ``within``."""
    different = first_difference(ranks, expected)
    if not different or not within:
        assert not different, different
        return
    for rank in ranks:
        assert np.allclose(rank.losses, expected.losses, rtol=0.0, atol=within)
        assert np.allclose(rank.evaluations, expected.evaluations, rtol=0.0, atol=within)
    assert not _lacking(ranks, expected)
    assert distance(ranks, expected) <= within, different


def first_difference(ranks: Sequence[Trained], expected: Trained) -> str:
    """Say how far weights are from the reference, and where first; nothing if all is equal."""
    far = f"weights differ by {distance(ranks, expected):.1e}"
    for rank in ranks:
        for step, weights in enumerate(rank.weights):
            for name in weights:
                if weights[name].tobytes() != expected.weights[step][name].tobytes():
                    return f"{far}, first {name} in step {step}"
        if expected.masters:
            for name, master in rank.masters.items():
                if master.tobytes() != expected.masters[name].tobytes():
                    return f"{far}, those in fp32 of {name}"
        for what in ("losses", "evaluations", "scales"):
            if (got := getattr(rank, what)) != (right := getattr(expected, what)):
                return f"{what} {got} instead of {right}"
        own = frozenset(rank.weights[0])
        for step, missing in enumerate(rank.missing):
            if expected.missing and missing != (lacking := expected.missing[step] & own):
                return f"no gradient in step {step}: {sorted(missing)} instead of {sorted(lacking)}"
    return _lacking(ranks, expected)


def _lacking(ranks: Sequence[Trained], expected: Trained) -> str:
    lacking = set(expected.weights[0]).difference(*(rank.weights[0] for rank in ranks))
    return f"no rank has {sorted(lacking)}" if lacking else ""


def distance(ranks: Sequence[Trained], expected: Trained) -> float:
    """Return the largest difference of a weight in any step, or of one in fp32 after the last."""
    pairs: list[tuple[Weights, Weights]] = []
    for rank in ranks:
        pairs += zip(rank.weights, expected.weights, strict=True)
        if expected.masters:
            pairs.append((rank.masters, expected.masters))
    each = [
        np.abs(weight.reshape(-1) - other[name].reshape(-1)).max()
        for own, other in pairs
        for name, weight in own.items()
    ]
    return float(np.max(each))
