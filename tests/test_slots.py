"""Tensors that do not fit their frame: always a clear error, never a crash or another value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecodec import Codec, FrameError, unpack
from pipecodec.describe import Leaf, leaves
from tests.corpus import same
from tests.strategies import values

Tensors = tuple[Any, ...]

no_tensors = st.sampled_from([None, 7, "frame", b"\x89PCF", [], np.zeros(3), torch.float32])


def tensors(*devices: str) -> st.SearchStrategy[torch.Tensor]:
    return st.builds(
        lambda shape, dtype, device: torch.zeros(shape, dtype=dtype, device=device),
        st.lists(st.integers(0, 4), max_size=3),
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
        st.sampled_from(devices),
    )


def replaced(beside: Tensors, at: int, item: Any) -> Tensors:
    return (*beside[:at], item, *beside[at + 1 :])


@st.composite
def mismatches(draw: st.DrawFn, beside: Tensors, *devices: str) -> Tensors:
    """Draw the tensors beside a frame with one change, which may leave them as they were."""
    others = st.one_of(tensors(*devices), no_tensors)
    places = st.integers(0, len(beside) - 1) if beside else st.nothing()
    kinds = ["insert"] + ["remove", "replace", "exchange", "reshape", "convert"] * bool(beside)
    kind = draw(st.sampled_from(kinds))
    if kind == "insert":
        at = draw(st.integers(0, len(beside)))
        return (*beside[:at], draw(others), *beside[at:])
    at = draw(places)
    if kind == "remove":
        return (*beside[:at], *beside[at + 1 :])
    if kind == "replace":
        return replaced(beside, at, draw(others))
    if kind == "exchange":
        other = draw(places)
        return replaced(replaced(beside, at, beside[other]), other, beside[at])
    if kind == "reshape":
        return replaced(beside, at, beside[at].unsqueeze(draw(st.integers(0, beside[at].dim()))))
    return replaced(beside, at, beside[at].to(draw(st.sampled_from([torch.float64, torch.int8]))))


def fits(beside: Iterable[Any], wanted: list[Leaf]) -> bool:
    """Return whether these are tensors of the dtypes and shapes of the frame's leaves."""
    found = [
        (str(t.dtype), tuple(t.shape)) if isinstance(t, torch.Tensor) else None for t in beside
    ]
    return found == [(f"torch.{leaf.dtype}", leaf.shape) for leaf in wanted]


@settings(max_examples=250, deadline=None)
@given(st.data(), values)
def test_slots(data: st.DataObject, value: Any) -> None:
    codec = Codec()
    *beside, frame = codec.pack(value)
    wanted = leaves((frame,))
    changed = data.draw(mismatches(tuple(beside), "cpu", "meta"))
    for read in (unpack, codec.unpack):
        if fits(changed, wanted):  # the value's tensors are then the given ones
            got = Codec().pack(read((*changed, frame)))
            assert all(a is b for a, b in zip(got, changed, strict=False))
        else:
            with pytest.raises(FrameError):
                read((*changed, frame))
        assert same(read((*beside, frame)), value)


large = st.sampled_from([torch.arange(1100), torch.zeros(5000, dtype=torch.bool)])


@settings(max_examples=200, deadline=None)
@given(st.data(), values, st.lists(large, max_size=2), st.booleans())
def test_slots_beside_a_tunnel(
    data: st.DataObject, value: Any, more: list[torch.Tensor], differentiable: bool
) -> None:
    codec = Codec(transport="tunnel")
    value = [value, *more, torch.ones(5, requires_grad=differentiable)]
    tunnel, *slots, frame = codec.pack(value)
    tunnel = tunnel.detach()
    needed = sum(-(-leaf.nbytes // 16) * 4 for leaf in leaves((frame,)) if leaf.route == "tunnel")
    changed = data.draw(mismatches((tunnel, *slots), "cpu"))
    right = (
        all(isinstance(tensor, torch.Tensor) for tensor in changed)
        and len(changed) == 1 + len(slots)
        and changed[0].dtype == torch.float32
        and changed[0].numel() >= needed
        and [(t.dtype, t.numel()) for t in changed[1:]] == [(t.dtype, t.numel()) for t in slots]
    )
    if right:  # the leaves then have the given bits
        got = codec.unpack((*changed, frame))
        given_bits = [changed[0].reshape(-1)[:needed], *(t.reshape(-1) for t in changed[1:])]
        assert same(got, value) or not same(given_bits, [tunnel[:needed], *slots])
    else:
        with pytest.raises(FrameError):
            codec.unpack((*changed, frame))
    assert same(codec.unpack((tunnel, *slots, frame)), value)


@pytest.mark.parametrize(
    "wrong", [None, 7, torch.ones(2), "frame", {}, {1, 2}, iter([torch.ones(2)]), np.zeros(3)]
)
@pytest.mark.parametrize("transport", ["slots", "tunnel"])
def test_what_is_no_tuple(wrong: Any, transport: Any) -> None:
    codec = Codec(transport=transport)
    with pytest.raises(TypeError, match="the tuple or list of tensors that pack gave"):
        codec.unpack(wrong)
    assert codec.unpack(codec.pack([1])) == [1]


@given(
    st.lists(st.one_of(tensors("cpu", "meta"), no_tensors), max_size=3),
    st.sampled_from(["slots", "tunnel"]),
)
def test_no_frame_at_all(beside: list[Any], transport: Any) -> None:
    for read in (unpack, Codec(transport=transport).unpack):
        with pytest.raises(FrameError):
            read(tuple(beside))
        with pytest.raises(FrameError):
            read(beside)
