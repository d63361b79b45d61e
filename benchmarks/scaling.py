"""The same value with ever more leaves, for the contenders that can keep up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.contenders import OURS, Contender
from benchmarks.measure import measure
from benchmarks.results import Result
from benchmarks.structures import Structure

__all__ = ["MOST_LEAVES", "TOO_SLOW_S", "in_tens", "scaling"]

MOST_LEAVES = 1_000_000

TOO_SLOW_S = 3.0
"""Seconds for one value, by the size before, above which a contender is left out."""


def scaling(
    contenders: Sequence[Contender],
    rounds: int,
    most_leaves: int = MOST_LEAVES,
) -> list[Result]:
    """Measure 1, 10, 100, … leaves, at most so many; see ``measure`` for the rest.

    The leaves are distinct tensors, in tuples of ten of tuples of ten and so on.
    """
    tensors = [torch.ones(2, 3) for _ in range(most_leaves)]
    results: list[Result] = []
    left_out: dict[str, str] = {}
    size = 1
    while size <= most_leaves:
        # The last: the first lie scattered, in memory gaps that earlier code left.
        structure = Structure(f"{size:,}", "leaves in tens", in_tens(tensors[-size:]))
        results.append(measure(structure, contenders, rounds, left_out))
        left_out = _too_slow_for_tenfold(results[-1])
        size *= 10
    return results


def in_tens(items: list[Any]) -> tuple[Any, ...]:
    """Return the items in tuples of at most ten, and those in such tuples, up to a single one."""
    while len(items) > 10:
        items = [tuple(items[i : i + 10]) for i in range(0, len(items), 10)]
    return tuple(items)


def _too_slow_for_tenfold(result: Result) -> dict[str, str]:
    too_slow = dict(result.refused)
    for row in result.rows:
        expected = 10 * row.sum.median / 1e6
        if expected > TOO_SLOW_S and row.contender != OURS.NAME:
            too_slow[row.contender] = f"would need more than {TOO_SLOW_S:g} s for one value"
    return too_slow
