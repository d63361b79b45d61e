"""Finds the ranks that hold the copies of a tied weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

__all__ = ["Ties", "Topology", "analyze_tie_ranks"]

Ties = list[list[tuple[str, int]]]
"""For each tied weight the (parameter path, stage id) pairs of its copies, in order of stages."""


class Topology(Protocol):
    """The part of DeepSpeed's ``ProcessTopology`` that is used here."""

    def filter_match(self, **filter_kwargs: int) -> list[int]:
        """Return the ranks whose coordinates match."""


def analyze_tie_ranks(
    tie_weight_groups: Iterable[Collection[tuple[str, int]]], topology: Topology
) -> tuple[list[list[list[int]]], list[list[int]]]:
    """Find the ranks and the stages of each group of tied weights.

    A group holds (parameter path, stage id) pairs. The first result lists, per group and per
    position within a stage (data and tensor parallel), the sorted ranks that tie this weight, one
    per stage; the second lists, per group, its sorted stage ids. With 4 stages of 2 ranks, a weight
    tied between stages 0 and 3 gives ``[[0, 6], [1, 7]]`` and ``[0, 3]``.
    """
    ranks, stages = [], []
    for group in tie_weight_groups:
        stage_ids = [stage_id for _, stage_id in group]
        per_stage = [topology.filter_match(pipe=stage_id) for stage_id in stage_ids]
        ranks.append([sorted(tie_group) for tie_group in zip(*per_stage, strict=True)])
        stages.append(sorted(stage_ids))
    return ranks, stages
