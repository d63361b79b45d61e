"""Benchmarks in several processes: their commands' tables and JSON; the boundary's counts are in
test_costs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.boundary import parts as boundary_parts
from benchmarks.boundary import timing
from benchmarks.boundary.__main__ import main
from benchmarks.boundary.cases import STORED, TIMED
from benchmarks.boundary.ways import ways
from benchmarks.channel import __main__ as channel
from benchmarks.channel.cases import CASES
from benchmarks.channel.contenders import CONTENDERS, OURS
from tests.distributed.test_costs import MESSAGES


def test_command_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "costs.json"
    main(["--quick", "--stages", "2", "--json", str(path)])
    printed = capsys.readouterr().out
    report = json.loads(path.read_text(encoding="utf-8"))
    assert list(report) == ["environment", "time", "counts", "copies", "peaks"]
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
    for part in ("copies", "peaks"):
        assert [found["case"] for found in report[part]] == [case.name for case in STORED]
    assert "4 + 2 MiB float32                                6             6" in printed
    assert "4 MiB float32, 2 stages                     16 + 0        28 + 0" in printed


def test_failing_stages_are_reported() -> None:
    with pytest.raises(RuntimeError, match=r"rank \d: error(.|\n)*IndexError"):
        boundary_parts._values(timing.by_stage, 2, len(TIMED), 2, 2)


def test_channel_command_has_a_row_or_a_reason_for_each_contender(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "channel.json"
    channel.main(["--quick", "--json", str(path)])
    printed = capsys.readouterr().out
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert [case["case"] for case in cases] == [case.name for case in CASES[:3]]
    for case in cases:
        assert case["case"] in printed
        rows = {row["contender"]: row for row in case["rows"]}
        assert [name for name in CONTENDERS if name in rows or name in case["missing"]] == list(
            CONTENDERS
        )
        assert rows[OURS]["latency_ratio"] == rows[OURS]["cpu_ratio"] == 1.0
        assert all(row["latency_us"] > 0 and row["cpu_us"] > 0 for row in rows.values())
        assert {OURS, "torch send_object_list", "tensor dict (vLLM, SGLang)"} <= rows.keys()
