"""The boundary's benchmark: both ways do the same, and the command runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.boundary import parts as boundary_parts
from benchmarks.boundary import timing
from benchmarks.boundary.__main__ import main
from benchmarks.boundary.cases import STORED, TIMED
from benchmarks.boundary.crossing import BY_HAND, WRAPPED
from benchmarks.boundary.ways import ways
from tests.distributed.test_costs import MESSAGES


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


def test_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--parts", "process"])
    assert capsys.readouterr().out.count("wrapped / by hand: time ") == 2


def test_command_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "costs.json"
    parts = ["time", "counts", "memory"]
    main(["--quick", "--stages", "2", "--json", str(path), "--parts", *parts])
    printed = capsys.readouterr().out
    report = json.loads(path.read_text(encoding="utf-8"))
    assert list(report) == ["environment", *parts]
    assert [found["case"] for found in report["time"]] == [case.name for case in TIMED[:2]]
    for found, case in zip(report["time"], TIMED, strict=False):
        assert f"{case.name}, 2 stages" in printed
        assert [row["way"] for row in found["rows"][::2]] == list(ways(case))
        assert [row["ratio_to_by_hand"] for row in found["rows"][:2]] == [1.0, 1.0]
        assert all(row["sum_us"] > 0 and row["step_us"] > 0 for row in found["rows"])
    assert {
        found["case"]: tuple((row["forward"], row["back"]) for row in found["rows"])
        for found in report["counts"]
    } == MESSAGES
    assert "2 forward   1 back   waits: 1 to; 0" in printed
    assert [found["case"] for found in report["memory"]] == [case.name for case in STORED]
    assert "96 / 96 / 0" in printed


def test_failing_stages_are_reported() -> None:
    with pytest.raises(RuntimeError, match=r"rank \d: error(.|\n)*IndexError"):
        boundary_parts._values(timing.by_stage, 2, len(TIMED), 2, 2)
