"""Ranks of tied weights, against recorded results, and copies within a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology, ProcessTopology

from pipecodec.engine.tied_copy import TiedCopy
from pipecodec.engine.ties import analyze_tie_ranks

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


def test_a_copy_is_bound_under_all_its_names():
    stage = torch.nn.ModuleDict(
        {name: torch.nn.Linear(2, 2) for name in ("embed", "head", "other")}
    )
    stage.head.weight = stage.embed.weight
    copy = TiedCopy(stage, 1, "embed.weight")
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    copy.bind(parameter)
    assert stage.embed.weight is stage.head.weight is copy.weight is parameter
    assert stage.other.weight is not parameter
    copy.check()
    stage.embed = torch.nn.Sequential(stage.embed)
    copy.check()
    stage.embed = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^embed.weight \(stage 1\) was replaced after the"):
        copy.check()
