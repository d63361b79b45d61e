"""The benchmarks: contenders restore what they claim to, and are measured as the README says."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from pipecodec import UnsupportedTypeError

ROOT = Path(__file__).parents[1]
# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(ROOT))

from benchmarks.as_json import as_json  # noqa: E402
from benchmarks.contenders import CONTENDERS, OURS, available  # noqa: E402
from benchmarks.loops import Fresh, Repeated  # noqa: E402
from benchmarks.measure import measure  # noqa: E402
from benchmarks.realistic import realistic  # noqa: E402
from benchmarks.results import Report  # noqa: E402
from benchmarks.road import COUNTS, by_hand, cut, through_codecs  # noqa: E402
from benchmarks.scaling import in_tens, scaling  # noqa: E402
from benchmarks.structures import Structure, synthetic  # noqa: E402
from benchmarks.tables import as_text  # noqa: E402

SYNTHETIC, REALISTIC = synthetic(), realistic()
LEAVES = Structure("120", "leaves in tens", in_tens([torch.ones(1) for _ in range(120)]))
STRUCTURES = [*SYNTHETIC, *REALISTIC, LEAVES]


def by_name(thing):
    return getattr(thing, "NAME", None) or thing.name


def is_the_tensor(left, right):
    return left is right


def is_an_equal_tensor(left, right):
    return (
        torch.equal(left, right)
        and left.dtype == right.dtype
        and left.stride() == right.stride()
        and left.requires_grad == right.requires_grad
    )


def same(left, right, tensors=is_the_tensor):
    """Same types, keys, order and values; the tensors as said."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return tensors(left, right)
    if isinstance(left, dict):
        if list(left) != list(right):
            return False
        left, right = list(left.values()), list(right.values())
    if isinstance(left, (list, tuple)):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(same(a, b, tensors) for a, b in pairs)
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


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return list(map(as_lists, value)) if isinstance(value, (list, tuple)) else value


def with_sorted_keys(value):
    if isinstance(value, dict):
        return {key: with_sorted_keys(value[key]) for key in sorted(value)}
    return type(value)(map(with_sorted_keys, value)) if isinstance(value, (list, tuple)) else value


# What arrives in the place of a value, where a contender's NOTE says that it is another one.
ARRIVES = {
    "origin": as_tuples,
    "origin, frombuffer": as_tuples,
    "jaxlib": with_sorted_keys,
    "msgpack": as_lists,
    "msgspec": as_lists,
}


@pytest.mark.parametrize("structure", STRUCTURES, ids=by_name)
@pytest.mark.parametrize("contender", CONTENDERS, ids=by_name)
def test_contender_restores_what_it_claims_to(contender, structure):
    send, receive = contender.make()
    tensors = is_an_equal_tensor if contender.NAME == "torch objects" else is_the_tensor
    values = [structure.value, structure.value]
    if structure.vary is not None:
        values += [structure.vary(1), structure.vary(2)]
    for value in values:
        expected = ARRIVES.get(contender.NAME, lambda same_value: same_value)(value)
        assert same(receive(send(value)), expected, tensors)


def test_synthetic_structures_are_those_of_the_tables():
    assert [structure.name for structure in SYNTHETIC] == ["S1", "S2", "S3", "S4", "S5"]
    counts = []
    for structure in SYNTHETIC:
        found = leaves(structure.value)
        tensors = {id(leaf) for leaf in found if isinstance(leaf, torch.Tensor)}
        counts.append((len(found), len(tensors)))
    assert counts == [(4, 3), (8, 4), (50, 49), (68, 64), (1000, 1000)]


def test_realistic_structures_hold_what_blocks_are_called_with():
    def kind(leaf):
        if not isinstance(leaf, torch.Tensor):
            return repr(leaf)
        told = [str(leaf.dtype).removeprefix("torch."), "grad" * leaf.requires_grad]
        return " ".join(filter(None, [*told, "strided" * (not leaf.is_contiguous())]))

    found = {s.name: Counter(map(kind, leaves(s.value))) for s in REALISTIC}
    assert found == {
        "R1": {"float32 grad": 1, "bool": 1, "int64": 1, "None": 3, "False": 1},
        "R2": {"float32 grad": 1, "bool": 1, "2": 1, "12": 1},
        "R3": {"float32 grad": 1, "float32": 2, "bool": 1, "int64": 1, "None": 1, "False": 1},
        "R4": {"float32 grad": 2, "float32 grad strided": 1, "float32": 1, "bool": 1, "None": 2},
        "R5": {"float32": 67, "bool": 1, "int64": 1, "True": 1},
    }


def test_scaling_nests_in_tens():
    assert in_tens(list(range(10))) == tuple(range(10))
    assert in_tens(list(range(100)))[9] == tuple(range(90, 100))
    assert leaves(in_tens(list(range(1000)))) == list(range(1000))
    assert in_tens(list(range(1000)))[3][2][1] == 321


@pytest.mark.parametrize("structure", STRUCTURES, ids=by_name)
def test_only_a_changing_value_makes_a_new_frame(structure):
    send, _ = OURS.make()
    first = send(structure.value)[-1]
    assert send(structure.value)[-1] is first
    if structure.vary is not None:
        frames = [send(structure.vary(i))[-1] for i in range(3)]
        assert not torch.equal(frames[0], frames[1])
        assert not torch.equal(frames[1], frames[2])
        assert {frame.numel() for frame in frames} == {first.numel()}


def test_repeated_loop_calls_with_one_argument_after_the_other():
    called = []
    loop = Repeated(called.append, lambda count: list(range(count)))
    called.clear()
    assert loop.time() > 0
    assert called == [len(called) - 2, *range(len(called) - 1)]


def test_fresh_loop_uses_every_call_once():
    used = []

    def make():
        def call(argument):
            used.append(call)
            assert argument == "wire"

        return call

    loop = Fresh(make, "wire")
    used.clear()
    assert loop.time() > 0
    assert len({id(call) for call in used}) == len(used) == (loop.loops_before + 1) * loop.count


@pytest.mark.parametrize("count", COUNTS)
def test_both_ways_of_the_road_carry_leaves_and_gradients(count):
    for way in (through_codecs(), by_hand()):
        leaves = tuple(torch.full((64,), i / 3, requires_grad=True) for i in range(count))
        sent = way.send(leaves)
        received = way.receive(cut(sent))
        assert all(map(torch.equal, received, leaves))
        way.cross(leaves)
        way.cross(leaves)
        assert all(torch.equal(leaf.grad, torch.full((64,), 2.0)) for leaf in leaves)


def test_whoever_cannot_carry_a_value_is_told_with_the_reason():
    structure = Structure("D", "a dtype", (torch.ones(1), torch.float16))
    present, missing = available()
    result = measure(structure, present, rounds=2)
    assert set(result.refused) == {"origin", "origin, frombuffer", "msgpack", "msgspec"} - set(
        missing
    )
    assert result.refused["origin"] == "ValueError: no type code for <class 'torch.dtype'>"
    assert {row.contender for row in result.rows} == {c.NAME for c in present} - set(result.refused)
    text = as_text(Report({"synthetic": [result]}, missing))
    assert "origin without D: ValueError: no type code for <class 'torch.dtype'>" in text
    cells = [line.split() for line in text.splitlines() if line.startswith("origin  ")]
    assert cells == [["origin", *"-----"], ["origin", "-"]]
    (told,) = as_json(Report({"synthetic": [result]}, missing))["structures"]
    assert told["refused"] == result.refused


def test_what_pipecodec_cannot_carry_is_an_error():
    with pytest.raises(UnsupportedTypeError):
        measure(Structure("O", "an object", (object(),)), [OURS], rounds=2)


def test_scaling_goes_on_without_whoever_is_too_slow(monkeypatch):
    module = importlib.import_module("benchmarks.scaling")
    monkeypatch.setattr(module, "TOO_SLOW_S", 0.0)
    present, _ = available()
    first, *rest = scaling(present, rounds=2, most_leaves=100)
    assert [result.tensors for result in (first, *rest)] == [1, 10, 100]
    assert {row.contender for row in first.rows} == {contender.NAME for contender in present}
    for result in rest:
        assert [row.label for row in result.rows] == ["pipecodec, steady", "pipecodec, first"]
        assert set(result.refused.values()) == {"would need more than 0 s for one value"}


def test_missing_package_is_listed_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "optree", None)
    present, missing = available()
    assert OURS in present
    assert "optree" in missing["optree"]
    report = Report({"synthetic": [measure(SYNTHETIC[0], [OURS], rounds=2)]}, missing)
    assert f"missing: optree: {missing['optree']}" in as_text(report)
    assert as_json(report)["missing"]["optree"] == missing["optree"]


def test_missing_pipecodec_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pipecodec", None)
    with pytest.raises(ImportError, match="pipecodec"):
        available()
