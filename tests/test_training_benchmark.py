"""The benchmark of trainings: its table, JSON and picture, and that it tells a wrong training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.training.__main__ import main
from benchmarks.training.cases import TINY, Case
from benchmarks.training.results import rows_of, wrong
from benchmarks.training.running import Times
from benchmarks.training.table import as_text


@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "training.json", tmp_path / "images" / "training.svg"
    small = ["--quick", "--models=gpt2", "--stages", "2"]
    assert main([*small, "--json", str(file), "--plot", str(picture)]) == 0
    rows = json.loads(file.read_text())["rows"]
    contenders = ["by hand", "pipecodec", "pipecodec, stages by hand", "origin"]
    assert [row["contender"] for row in rows] == contenders * 2
    assert [row["engine"] for row in rows] == ["DeepSpeed"] * 4 + ["torch"] * 4
    *trained, refused = rows
    assert [row["loss_difference"] for row in trained] == [0.0] * 7
    assert all(row["tokens_per_second"] > 0 for row in trained)
    assert rows[0]["wall_to_by_hand"] == {"q1": 1.0, "median": 1.0, "q3": 1.0}
    assert "Error" in refused["error"]
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("| GPT-2, 2, ")]
    assert [line.count(" | ") for line in table] == [5] * 8
    assert [line.endswith("| equal |") for line in table] == [True] * 7 + [False]
    assert "tiny: CPU time / by hand" in picture.read_text()


CASE = Case("gpt2", replace(TINY, rounds=2, steps=1, warm_up=0), 2, "torch")


def rank(**losses: list[float]) -> dict[str, Times]:
    names = {"hand": "by hand", "own": "pipecodec"}
    walls = {"hand": [1000, 2000], "own": [1500, 2500]}
    return {
        names[key]: Times(walls[key], [time // 2 for time in walls[key]], list(values))
        for key, values in losses.items()
    }


def test_ratios_are_paired_round_by_round() -> None:
    ranks = [rank(hand=[4.0, 3.0], own=[4.0, 3.0])] * 2
    by_hand, own = rows_of(CASE, ranks, [4.0, 3.0])
    assert by_hand.wall == by_hand.cpu == (1.0, 1.0, 1.0)
    assert own.wall == pytest.approx((1.3125, 1.375, 1.4375))
    assert own.cpu == own.wall
    assert not wrong(own)
    assert own.difference == 0.0


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ([4.0, 3.0 + 2**-21], "| 4.8e-07 |"),
        ([4.0, 3.5], "| **wrong by 0.5** |"),
        ([4.0, float("nan")], "| **wrong by nan** |"),
    ],
)
def test_a_training_that_differs_is_shown(losses: list[float], shown: str) -> None:
    rows = rows_of(CASE, [rank(hand=[4.0, 3.0], own=losses)] * 2, [4.0, 3.0])
    assert as_text(rows).splitlines()[-1].endswith(shown)
    assert wrong(rows[1]) == ("wrong" in shown)
