"""The campaigns of tests/campaign.py, for a few seconds."""

from __future__ import annotations

import pytest

from tests.campaign import change_frames, round_trips
from tests.resealing import change_and_reseal


def test_changed_frames_are_refused(seed: int) -> None:
    counts = change_frames(60_000, seed)
    assert counts["wrong values"] == counts["other errors"] == 0
    assert min(counts["flips"], counts["truncations"], counts["splices"]) > 1000
    assert counts["refused"] >= counts["flips"] + counts["truncations"] + counts["splices"]


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_changes_behind_a_right_checksum_are_refused_or_built(seed: int) -> None:
    counts = change_and_reseal(8_000, seed)
    assert counts["other errors"] == 0
    assert min(counts["values"], counts["refused"]) > 1000


def test_memory_does_not_grow(seed: int) -> None:
    sizes = round_trips(10_000, seed)
    print(sizes)
    assert sizes[-1] - sizes[2] < 4 << 20
