"""The boundary's benchmark: both ways do the same, and the command runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.boundary.__main__ import main
from benchmarks.boundary.crossing import BY_HAND, WRAPPED


def test_both_ways_give_the_same_gradients() -> None:
    batch = torch.arange(12.0).reshape(3, 4), torch.ones(2, dtype=torch.bool)
    gradients = []
    for make in (BY_HAND, WRAPPED):
        crossing = make(batch)
        crossing()
        stages = (crossing.first, crossing.last)
        gradients.append([p.grad for stage in stages for p in stage.parameters()])
    assert [g.tolist() for g in gradients[0]] == [[66.0], [66.0]]
    assert gradients[0] == gradients[1]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick"])
    assert capsys.readouterr().out.count("wrapped / by hand: time ") == 2
