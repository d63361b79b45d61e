"""The benchmarks' command: its options, and what it prints, writes and draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(ROOT))

from benchmarks.__main__ import parse  # noqa: E402
from benchmarks.contenders import CONTENDERS, OURS  # noqa: E402
from benchmarks.realistic import realistic  # noqa: E402
from benchmarks.results import LABELS  # noqa: E402
from benchmarks.road import COUNTS, MEASURES  # noqa: E402
from benchmarks.structures import synthetic  # noqa: E402

SYNTHETIC, REALISTIC = synthetic(), realistic()
MEASURED = {"synthetic": SYNTHETIC, "realistic": REALISTIC}


@pytest.mark.parametrize(
    ("arguments", "parts", "rounds"),
    [
        ([], ["road", "synthetic", "realistic", "scaling"], 400),
        (["--quick"], ["road", "synthetic"], 30),
        (["--quick", "--parts", "realistic"], ["realistic"], 30),
        (["--quick", "--plot", "times.png"], ["road", "synthetic", "scaling"], 30),
        (["--quick", "--rounds", "5"], ["road", "synthetic"], 5),
    ],
)
def test_options(arguments, parts, rounds):
    options = parse(arguments)
    assert (options.parts, options.rounds) == (parts, rounds)


@pytest.mark.parametrize("arguments", [["--rounds", "1"], ["--most-leaves", "0"]])
def test_options_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert "at least 2 rounds and 1 leaf" in capsys.readouterr().err


def test_plot_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        parse(["--plot", "times.png"])
    assert "matplotlib" in capsys.readouterr().err


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Everything once, in few rounds: what was printed, the JSON, and the picture's path."""
    folder = tmp_path_factory.mktemp("benchmarks")
    arguments = ["--rounds", "2", "--most-leaves", "10"]
    files = ["--json", str(folder / "times.json"), "--plot", str(folder / "times.png")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, *files],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    return done.stdout, report, folder / "times.png"


def test_command_writes_json(command):
    _, report, _ = command
    assert set(report) == {
        "environment",
        "method",
        "advice",
        "contenders",
        "missing",
        "road",
        "structures",
    }
    assert report["environment"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert report["contenders"] == {contender.NAME: contender.NOTE for contender in CONTENDERS}
    named = [(part, s.name) for part, group in MEASURED.items() for s in group]
    named += [("scaling", name) for name in ("1", "10")]
    assert [(told["part"], told["name"]) for told in report["structures"]] == named


def test_json_has_a_row_for_every_contender_and_mode(command):
    _, report, _ = command
    sources = [*SYNTHETIC, *REALISTIC, *[None] * 2]
    for told, source in zip(report["structures"], sources, strict=True):
        rows = told["rows"]
        everyone = {contender.NAME for contender in CONTENDERS}
        assert {row["contender"] for row in rows} == everyone - set(report["missing"])
        assert told["refused"] == {}
        modes = [row["mode"] for row in rows if row["contender"] == OURS.NAME]
        changing = source is not None and source.vary is not None
        assert modes == ["steady", *["changing"] * changing, "first"]
        assert told["frame_bytes"] % 256 == 0
        assert told["rounds"] == 2
        for row in rows:
            assert row["ratio_to_steady"] > 0
            assert (row["ratio_to_changing"] is not None) == changing
            for side in ("send_us", "receive_us", "sum_us"):
                assert row[side]["q1"] <= row[side]["median"] <= row[side]["q3"]


def test_command_prints_the_road_that_its_json_has(command):
    printed, report, _ = command
    told = report["road"]
    assert [(row["leaves"], row["measure"]) for row in told] == list(product(COUNTS, MEASURES))
    table = printed.partition("Road: ")[2].partition("\n\n")[0].splitlines()[2:]
    for line, row in zip(table, told, strict=True):
        assert line.split()[0] == str(row["leaves"])
        ours, by_hand = float(line.split()[-3]), float(line.split()[-2])
        assert (ours, by_hand) == pytest.approx((row["pipecodec_us"], row["by_hand_us"]), abs=0.01)
        assert float(line.split()[-1]) == pytest.approx(row["ratio"], rel=0.006, abs=0.001)


def test_command_prints_the_ratios_that_its_json_has(command):
    printed, report, _ = command
    assert "Quote ratios, not times" in printed
    lines = printed.splitlines()
    header = next(line.split() for line in lines if line.split()[:2] == ["S1", "S2"])
    assert header == [s.name for s in (*SYNTHETIC, *REALISTIC)]
    start = next(i for i, line in enumerate(lines) if line.split() == header)
    table = {}
    for line in lines[start + 1 : start + 1 + len(LABELS)]:
        label = max((label for label in LABELS if line.startswith(label)), key=len)
        table[label] = line.removeprefix(label).split()
    assert {"origin", "optree", "jaxlib", "pickle"} <= set(table)
    for column, told in enumerate(report["structures"][: len(header)]):
        for row in told["rows"]:
            ours = row["contender"] == OURS.NAME
            label = f"{row['contender']}, {row['mode']}" if ours else row["contender"]
            shown = float(table[label][column].replace(",", ""))
            assert shown == pytest.approx(row["ratio_to_steady"], rel=0.006)


def test_command_prints_a_first_frame_for_every_structure(command):
    printed, report, _ = command
    table = printed.partition("First frame")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in table] == [told["name"] for told in report["structures"]]
    for line, told in zip(table, report["structures"], strict=True):
        modes = {row["mode"]: row for row in told["rows"] if row["contender"] == OURS.NAME}
        first, steady = (modes[mode]["sum_us"]["median"] for mode in ("first", "steady"))
        assert float(line.split()[-1]) == pytest.approx(first - 3 * steady, abs=0.01)


def test_command_draws_a_picture(command):
    _, _, picture = command
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.stat().st_size > 10_000
