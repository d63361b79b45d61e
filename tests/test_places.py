"""A leaf is known by its exact place, not by its shown path; messages call values by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import pipecodec
from pipecodec import Codec, CodecError, StructureChangedError, UnsupportedTypeError, describe
from pipecodec.describe import leaves

LONG = "model.language_model.decoder.layers.0.self_attention.query_key_value."


def boundary(**options: Any) -> Codec:
    return Codec(transport="tunnel", name="boundary 0→1", **options)


def attached() -> torch.Tensor:
    return torch.ones(4, requires_grad=True)


def deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "keys",
    [
        (LONG + "out", LONG + "mask"),
        (b"mm", b"hh"),
        (bytes(80) + b"m", bytes(80) + b"h"),
        (2**70, 2**71),
        (-(2**70), 2**70),
        (2**4000, 2**4000 + 1),
        ((1,), frozenset([1])),
        ((LONG * 3, 1), (LONG * 3, 2)),
        (1.5, 2.5),
        ("1", 1),
        ("a\0", "a\\x00"),
    ],
    ids=lambda keys: repr(keys)[:40],
)
@pytest.mark.parametrize("first", [0, 1])
def test_leaves_whose_paths_are_shown_alike_were_taken_for_one(keys: Any, first: int) -> None:
    """Which leaves are differentiable was remembered by the path as it is shown, which is cut."""
    value = {key: attached() if i == first else torch.ones(4) for i, key in enumerate(keys)}
    sender = boundary()
    for _ in range(2):
        sent = sender.pack(value)
        got = boundary().unpack(tuple(t.detach().requires_grad_(t.requires_grad) for t in sent))
        assert [t.requires_grad for t in got.values()] == [first == 0, first == 1]


@pytest.mark.parametrize("levels", [60, 200, 480])
def test_deep_leaves_were_taken_for_one(levels: int) -> None:
    sent = boundary().pack({"left": deep(torch.ones(4), levels), "right": deep(attached(), levels)})
    assert [leaf.requires_grad for leaf in leaves(sent)] == [False, True]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"h": attached(), "n": "text"}, {"h": torch.ones(4), "n": None}),
        ({"h": attached(), "n": [1]}, {"n": [True, 2], "h": torch.ones(4)}),  # a place, not a turn
        ([attached(), {}], (torch.ones(4), {"a": 1.0})),
    ],
)
def test_a_leaf_is_settled_whatever_stands_beside_it(first: Any, later: Any) -> None:
    codec = boundary()
    for value in (first, later):
        assert [leaf.requires_grad for leaf in leaves(codec.pack(value))] == [True]


def test_another_dtype_is_another_leaf() -> None:
    codec = boundary(differentiable="auto")
    codec.pack([torch.ones(8, requires_grad=True), "a"])
    with pytest.raises(StructureChangedError, match=r"^boundary 0→1: outputs\[0\]"):
        codec.pack([torch.ones(8, dtype=torch.int64), "b"])


def test_a_path_may_be_named_whole_or_as_it_is_shown() -> None:
    value = {LONG + "mask": torch.ones(4), LONG + "out": attached(), "short": attached()}
    whole = boundary(differentiable=[f"outputs['{LONG}out']", "outputs['short']"])
    assert [leaf.requires_grad for leaf in leaves(whole.pack(value))] == [False, True, True]
    shown = [leaf.path for leaf in leaves(Codec().pack(value))]
    assert shown[0] == shown[1]
    with pytest.raises(UnsupportedTypeError, match=r"which is the path of 2 tensors, as far as"):
        boundary(differentiable=shown).pack(value)


def test_a_named_path_where_no_tensor_stands_is_refused() -> None:
    value = {"hidden": attached(), "n": 1}
    for path in ("outputs['hiden']", "outputs['n']", "hidden"):
        with pytest.raises(
            UnsupportedTypeError, match=r"the first one is outputs\['hidden'\]\. des"
        ):
            boundary(differentiable=["outputs['hidden']", path]).pack(value)
    dynamic = boundary(differentiable=["outputs['cache']"], dynamic_shape=True)
    dynamic.pack({"cache": None})
    assert leaves(dynamic.pack({"cache": attached()}))[0].requires_grad


def test_a_leaf_that_is_not_named_and_requires_a_gradient_is_refused() -> None:
    with pytest.raises(
        StructureChangedError, match=r"outputs\[1\] requires a gradient, and is not"
    ):
        boundary(differentiable=["outputs[0]"]).pack([attached(), attached()])


def test_short_keys_are_shown_whole() -> None:
    shown = describe({b"m\xff'": 1, 2**64: 2, -(2**64): 3, b"x" * 61: 4})
    for key in (r"[b'm\xff\x27']", "[0x10000000000000000]", "[-0x10000000000000000]"):
        assert key in shown
    assert "[bytes of length 61]" in shown


NAMES = ["hidden", "mask"]


def named() -> Codec:
    codec = boundary()
    codec.names = NAMES
    return codec


def test_messages_call_values_by_their_names() -> None:
    assert boundary().names is None and named().names == ("hidden", "mask")
    with pytest.raises(
        UnsupportedTypeError, match=r"^boundary 0→1: mask\['rows'\]\[0\] is of type"
    ):
        named().pack((attached(), {"rows": [object()]}))
    with pytest.raises(UnsupportedTypeError, match=r"^boundary 0→1: hidden is of type obj"):
        named().pack([object(), 1])
    with pytest.raises(UnsupportedTypeError, match=r"^boundary 0→1: outputs\[0\] is of type obj"):
        named().pack((object(),))  # not as many as there are names
    with pytest.raises(UnsupportedTypeError, match=r"^boundary 0→1: mask is not strided"):
        named().pack((attached(), torch.eye(2).to_sparse()))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsupportedTypeError, match=r"^boundary 0→1: mask\[0\] contains itself"):
        named().pack((1, loop))
    codec = named()
    codec.pack((attached(), [torch.ones(2)]))
    with pytest.raises(StructureChangedError, match=r"^boundary 0→1: mask\[0\] requires a grad"):
        codec.pack((attached(), [torch.ones(2, requires_grad=True)]))
    with pytest.raises(StructureChangedError, match=r"^boundary 0→1: hidden is float32 \[5\] now"):
        codec.pack((torch.ones(5), [torch.ones(2)]))
    codec.names = None
    with pytest.raises(StructureChangedError, match=r"^boundary 0→1: outputs\[0\] is float32"):
        codec.pack((torch.ones(5), [torch.ones(2)]))


def test_the_receiver_calls_them_so_too() -> None:
    tunnel, frame = named().pack((torch.ones(9, requires_grad=True), 1))
    for receiver, shown in ((named(), "hidden"), (boundary(), r"outputs\[0\]")):
        with pytest.raises(CodecError, match=rf"^boundary 0→1: the frame says that {shown}, float"):
            receiver.unpack((tunnel.detach()[:4], frame))
    for read in ("verified", "always"):
        receiver = Codec(name="b", read=read)
        receiver.names = NAMES
        receiver.unpack(Codec().pack((torch.ones(2), "a")))
        with pytest.raises(CodecError, match=r"hidden"):
            receiver.unpack((torch.ones(3), Codec().pack((torch.ones(2), "a"))[-1]))


def test_a_named_path_may_be_named_by_its_name() -> None:
    for path in ("hidden[0]", "outputs[0][0]"):
        codec = boundary(differentiable=[path])
        codec.names = NAMES
        assert leaves(codec.pack(([torch.ones(4)], torch.ones(4))))[0].requires_grad


class First(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return {"hidden": super().forward(x), "extra": {"bad": object()}}


class Last(nn.Linear):
    def forward(self, hidden: torch.Tensor, extra: Any) -> torch.Tensor:
        return super().forward(hidden)


def test_run_local_calls_them_so_too() -> None:
    part = pipecodec.partition_modules([First(2, 2), Last(2, 2)])
    with pytest.raises(UnsupportedTypeError, match=r"^boundary 0→1: extra\['bad'\] is of type obj"):
        pipecodec.run_local(part, torch.ones(1, 2))
