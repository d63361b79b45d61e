"""The benchmarks: contenders restore what they claim to, and the command writes its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(ROOT))

from benchmarks.contenders import (  # noqa: E402
    CONTENDERS,
    OURS,
    available,
    origin,
    origin_frombuffer,
)
from benchmarks.measure import measure  # noqa: E402
from benchmarks.report import as_json, as_text  # noqa: E402
from benchmarks.structures import structures  # noqa: E402

STRUCTURES = structures()
NAMES = ["S1", "S2", "S3", "S4", "S5"]


def by_name(thing):
    return getattr(thing, "NAME", None) or thing.name


def same(left, right):
    """Same types, keys, order and values; a tensor must be the very tensor."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left is right
    if isinstance(left, dict):
        return list(left) == list(right) and same(list(left.values()), list(right.values()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def as_tuples(value):
    if isinstance(value, dict):
        value = tuple(value.values())
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("structure", STRUCTURES, ids=by_name)
@pytest.mark.parametrize("contender", CONTENDERS, ids=by_name)
def test_contender_restores_what_it_claims_to(contender, structure):
    try:
        send, receive = contender.make()
    except ImportError as error:
        if contender is OURS:
            raise
        pytest.skip(f"an optional package is not installed: {error}")
    values = [structure.value, structure.value]
    if structure.vary is not None:
        values += [structure.vary(1), structure.vary(2)]
    for value in values:
        expected = as_tuples(value) if contender in (origin, origin_frombuffer) else value
        assert same(receive(send(value)), expected)


def test_structures_are_those_of_the_tables():
    assert [structure.name for structure in STRUCTURES] == NAMES
    counts = []
    for structure in STRUCTURES:
        found = leaves(structure.value)
        tensors = {id(leaf) for leaf in found if isinstance(leaf, torch.Tensor)}
        counts.append((len(found), len(tensors)))
    assert counts == [(4, 3), (8, 4), (50, 49), (68, 64), (1000, 1000)]


@pytest.mark.parametrize("structure", STRUCTURES, ids=by_name)
def test_only_a_changing_value_makes_a_new_frame(structure):
    send, _ = OURS.make()
    first = send(structure.value)[-1]
    assert send(structure.value)[-1] is first
    if structure.vary is None:
        assert {type(leaf) for leaf in leaves(structure.value)} <= {torch.Tensor, type(None)}
    else:
        frames = [send(structure.vary(i))[-1] for i in range(3)]
        assert not torch.equal(frames[0], frames[1])
        assert not torch.equal(frames[1], frames[2])
        assert {frame.numel() for frame in frames} == {first.numel()}


def test_missing_package_is_listed_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "optree", None)
    present, missing = available()
    assert OURS in present
    assert "optree" in missing["optree"]
    results = [measure(STRUCTURES[0], [OURS], rounds=2)]
    text = as_text(results, missing, rounds=2)
    assert f"missing: optree: {missing['optree']}" in text
    assert as_json(results, missing, rounds=2)["missing"]["optree"] == missing["optree"]


def test_missing_pipecodec_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pipecodec", None)
    with pytest.raises(ImportError, match="pipecodec"):
        available()


def test_command_prints_tables_and_writes_json(tmp_path):
    path = tmp_path / "times.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Quote ratios, not times" in done.stdout
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["environment"]["torch"] == torch.__version__
    assert [structure["name"] for structure in report["structures"]] == NAMES
    everyone = {contender.NAME for contender in CONTENDERS}
    for structure, source in zip(report["structures"], STRUCTURES, strict=True):
        rows = structure["rows"]
        assert {row["contender"] for row in rows} == everyone - set(report["missing"])
        modes = [row["mode"] for row in rows if row["contender"] == OURS.NAME]
        assert modes == (["steady"] if source.vary is None else ["steady", "changing"])
        assert structure["frame_bytes"] % 256 == 0
        for row in rows:
            assert row["ratio_to_steady"] > 0
            for side in ("send_us", "receive_us", "sum_us"):
                assert row[side]["q1"] <= row[side]["median"] <= row[side]["q3"]
