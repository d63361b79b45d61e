"""Ranks of tied weights, against recorded results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology, ProcessTopology

from pipecodec.deepspeed.ties import analyze_tie_ranks

CASES = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())["tie_ranks"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"pp{c['pp']}tp{c['tp']}dp{c['dp']}")
def test_recorded_results(case):
    topology = PipeModelDataParallelTopology(case["pp"], case["tp"], case["dp"])
    groups = [[tuple(pair) for pair in group] for group in case["groups"]]
    expected = (case["tie_ranks"], case["tie_stages"])
    assert analyze_tie_ranks(groups, topology) == expected
    assert analyze_tie_ranks([set(group) for group in groups], topology) == expected


def test_order_of_axes_comes_from_the_topology():
    topology = ProcessTopology(axes=["data", "pipe"], dims=[2, 3])
    ranks, stages = analyze_tie_ranks([[("head.weight", 2), ("embed.weight", 0)]], topology)
    assert ranks == [[[0, 2], [3, 5]]]
    assert stages == [[0, 2]]


def test_no_ties():
    topology = ProcessTopology(axes=["pipe"], dims=[2])
    assert analyze_tie_ranks([], topology) == ([], [])
