"""The flatten/unflatten contract, against recorded results, and hostile metadata."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import torch

from pipecodec.errors import FrameError
from pipecodec.legacy import (
    WrappedTypeCode,
    decode_metadata,
    encode_metadata,
    flat_and_name_tensor_list,
    flatten,
    get_simple_nested_list_str,
    unflatten,
    unwrap_torch_tensor,
    wrap_to_torch_tensor,
)

CASES = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())["flatten"]
FLATTENED = [case for case in CASES if "error" not in case]
T = torch.zeros(2)


def tensor(spec):
    dtype = getattr(torch, spec["dtype"])
    return torch.tensor(spec["data"], dtype=dtype).reshape(spec["shape"])


def build(spec):
    """Make the Python value that a recorded structure describes."""
    ((kind, value),) = spec.items()
    if kind == "tensor":
        return tensor(value)
    if kind == "none":
        return None
    if kind == "dict":
        return {key: build(item) for key, item in value}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(map(build, value))
    return value


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_the_recording_is_complete():
    assert len(CASES) == 120
    assert sum("restored" in case for case in CASES) == 116


@pytest.mark.parametrize("case", CASES)
def test_recorded_names(case):
    named = flat_and_name_tensor_list(build(case["structure"]), "submod_1", "")
    assert [name for name, _ in named] == case["named"]


def test_names_come_with_their_values():
    pair = [T, None]
    named = flat_and_name_tensor_list((T, pair, {"a": T}), "s", ".4")
    assert [name for name, _ in named] == ["s.4", "s.4.0", "s.4.1", "s.4.1.0", "s.4.1.1", "s.4.2"]
    assert named[2][1] is pair
    assert named[3][1] is T


@pytest.mark.parametrize("case", CASES)
def test_recorded_text(case):
    structure = build(case["structure"])
    if "text" in case:
        assert get_simple_nested_list_str(structure) == case["text"]
    else:
        with pytest.raises(ValueError, match="Unsupported data type"):
            get_simple_nested_list_str(structure)


@pytest.mark.parametrize("case", FLATTENED)
def test_recorded_flatten_and_encode(case):
    metadata, tensors = flatten(build(case["structure"]), "cpu")
    assert metadata == [tuple(entry) for entry in case["metadata"]]
    assert encode_metadata(metadata) == case["encoded"]
    assert same(tensors, [tensor(spec) for spec in case["tensors"]])


@pytest.mark.parametrize("case", [case for case in FLATTENED if "restored" in case])
def test_recorded_restoration(case):
    tensors = [tensor(spec) for spec in case["tensors"]]
    restored = build(case["restored"])
    assert same(unflatten(tensors, decode_metadata(case["encoded"])), restored)
    assert same(unflatten(tensors, [tuple(entry) for entry in case["metadata"]]), restored)


@pytest.mark.parametrize("case", [case for case in CASES if "error" in case])
def test_recorded_errors(case):
    with pytest.raises(ValueError, match=r"data type <class 'str'>.*pipecodec\.pack"):
        flatten(build(case["structure"]), "cpu")


def test_nothing_but_empty_containers():
    metadata, tensors = flatten([[], {}], "cpu")
    assert unflatten(tensors, decode_metadata(encode_metadata(metadata))) == ()


def test_a_dict_at_the_top_gives_its_values():
    metadata, tensors = flatten({"a": T, "b": [T]}, "cpu")
    assert metadata == [("0", 0), ("1.0", 0)]
    assert tensors[0] is T


def test_flatten_continues_what_it_is_given():
    metadata, tensors = flatten([T], "cpu", "1", [("0", 0)], [T])
    assert metadata == [("0", 0), ("1.0", 0)]
    assert len(tensors) == 2


def test_decode_gives_strings():
    assert decode_metadata("0.1,3|2,0") == [["0.1", "3"], ["2", "0"]]


def test_type_codes_keep_their_numbers():
    assert [WrappedTypeCode(n).name for n in range(5)] == [
        "TORCH_TENSOR",
        "SCALAR",
        "TRUE_NONE",
        "LIST",
        "TUPLE",
    ]


@pytest.mark.parametrize(
    ("value", "code", "dtype"),
    [
        (None, WrappedTypeCode.TRUE_NONE, torch.int64),
        (3, WrappedTypeCode.SCALAR, torch.int64),
        (True, WrappedTypeCode.SCALAR, torch.bool),
        (0.5, WrappedTypeCode.SCALAR, torch.float32),
        ([1, 2], WrappedTypeCode.LIST, torch.int64),
        ((1.0, 2.0), WrappedTypeCode.TUPLE, torch.float32),
    ],
)
def test_wrap_and_unwrap(value, code, dtype):
    wrapped, found = wrap_to_torch_tensor(value, "cpu")
    assert found is code
    assert wrapped.dtype is dtype
    assert same(unwrap_torch_tensor(wrapped, code.value), value)


def test_tensors_are_not_wrapped():
    assert wrap_to_torch_tensor(T, "cpu") == (T, WrappedTypeCode.TORCH_TENSOR)


def test_unwrap_refuses_unknown_codes():
    with pytest.raises(ValueError, match="99"):
        unwrap_torch_tensor(T, 99)


def test_metadata_may_come_in_any_order():
    leaves = [torch.full((1,), float(i)) for i in range(6000)]
    metadata, tensors = flatten([leaves[:5990], leaves[5990:]], "cpu")
    restored = unflatten(tensors[::-1], metadata[::-1])
    assert same(restored, (tuple(leaves[:5990]), tuple(leaves[5990:])))


def test_lists_in_tensors_become_tuples():
    assert unflatten([torch.tensor([[1, 2]])], [("0", 3)]) == (((1, 2),),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0,0,0", "entry 0: 3 fields instead of path and code"),
        ("0", "entry 0: 1 fields"),
        ("0,0|", "entry 1: 1 fields"),
        ("0,0|x,0", "entry 1: 'x' is not a path of indices"),
        ("-1,0", "entry 0: '-1' is not a path"),
        ("1_0,0", "entry 0: '1_0' is not a path"),
        (" 1,0", "entry 0: ' 1' is not a path"),
        ("٣,0", "entry 0: '٣' is not a path"),
        ("00,0", "entry 0: '00' is not a path"),
        (",0", "entry 0: '' is not a path"),
        ("0..1,0", r"entry 0: '0\.\.1' is not a path"),
        ("0.,0", r"entry 0: '0\.' is not a path"),
        ("9" * 5000 + ",0", "entry 0: '9{59}[.]{3} is not a path"),
        ("0,x", "entry 0: 'x' is not a known type code"),
        ("0,99", "entry 0: '99' is not a known type code"),
        ("0,-1", "entry 0: '-1' is not a known type code"),
        ("0," + "1" * 5000, "entry 0: '1{59}[.]{3} is not a known type code"),
    ],
)
def test_decode_refuses(text, reason):
    with pytest.raises(FrameError, match=f"metadata {reason}"):
        decode_metadata(text)


@pytest.mark.parametrize(
    ("args", "metadata", "reason"),
    [
        ([T], [], "0 metadata entries describe 1 tensors"),
        ([T], [("0", 0), ("1", 0)], "2 metadata entries describe 1 tensors"),
        ([T], [("3000000", 0)], "entry 0: '3000000' leaves more than 4096 positions empty"),
        ([T, T], [("0", 0), ("1.5000", 0)], "entry 1: '1.5000' leaves more than 4096"),
        ([T, T], [("0", 0), ("0", 0)], "entry 1: '0' is taken by another entry"),
        ([T, T], [("0", 0), ("0.0", 0)], "entry 1: '0.0' lies inside another entry"),
        ([T, T], [("0.0", 0), ("0", 0)], "entry 1: '0' is taken by another entry"),
        ([torch.ones(1), T], [("0", 3), ("0.0", 0)], "entry 1: '0.0' lies inside another entry"),
        ([T], [("-1", 0)], "entry 0: '-1' is not a path"),
        ([T], [(0, 0)], "entry 0: 0 is not a path"),
        ([T], [("0", 7.0)], "entry 0: 7.0 is not a known type code"),
        ([T], [("0", [])], r"entry 0: \[\] is not a known type code"),
        ([T], [("0", 0, 0)], "entry 0: 3 fields"),
        ([None], [("0", 1)], "entry 0: '0' has code 1, which does not fit a NoneType"),
        ([torch.tensor(1)], [("0", 4)], "entry 0: '0' has code 4, which does not fit a Tensor"),
    ],
)
def test_unflatten_refuses(args, metadata, reason):
    with pytest.raises(FrameError, match=reason):
        unflatten(args, metadata)


def test_many_gaps_share_one_allowance():
    metadata = [(f"{i}.4000", 0) for i in range(1000)]
    tracemalloc.start()
    with pytest.raises(FrameError, match="leaves more than 4096"):
        unflatten([T] * 1000, metadata)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_deep_path_needs_no_stack():
    restored = unflatten([T], [(".".join(["0"] * 20000), 0)])
    depth = 0
    while restored is not T:
        (restored,) = restored
        depth += 1
    assert depth == 20000


def test_the_first_names_of_modules_hold_the_same_objects():
    from pipecodec import legacy, liveness, origin, stages

    assert set(origin.__all__) == set(legacy.__all__)
    assert all(getattr(origin, name) is getattr(legacy, name) for name in legacy.__all__)
    named = liveness.__all__
    assert all(getattr(liveness, name) is getattr(stages.liveness, name) for name in named)
