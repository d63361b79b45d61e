"""Types that cross by a pair of functions: registered here, or with torch's pytree."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from pipecodec import Codec, FrameError, UnsupportedTypeError, describe, pack, register, unpack
from tests.corpus import same


class Pair:
    """Not a container that anything knows by itself."""

    def __init__(self, left: Any, right: Any, label: Any = "pair") -> None:
        self.left, self.right, self.label = left, right, label


class Text(str):
    __slots__ = ()


def take(pair: Pair) -> tuple[list[Any], Any]:
    return [pair.left, pair.right], pair.label


def give(children: list[Any], label: Any) -> Pair:
    return Pair(*children, label)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(Pair, take, give)
    yield
    register(Pair, take, give, name="put away by the tests")


def test_a_registered_type_comes_back() -> None:
    t, u = torch.ones(2), torch.tensor([True])
    value = {"p": Pair([t, 7], Pair(u, t), label=("x", None, 2.5)), "again": t}
    for codec in (Codec(), Codec(transport="tunnel")):
        got = codec.unpack(codec.pack(value))["p"]
        assert type(got) is Pair
        assert got.label == ("x", None, 2.5)
        assert same(got.left, [t, 7])
        assert type(got.right) is Pair
        assert same(got.right.left, u)
        assert got.right.right is got.left[0]


def test_it_can_be_a_key_and_an_item_of_a_set() -> None:
    register(Text, lambda text: ([], str(text)), lambda _, text: Text(text))
    value = {Text("a"): 1, "a b": {Text("c")}}
    got = unpack(pack(value))
    assert [type(key) for key in got] == [Text, str]
    assert got == value
    (item,) = got["a b"]
    assert type(item) is Text


def test_the_context_is_made_anew_for_every_value() -> None:
    codec = Codec()
    packed = codec.pack(Pair(1, 2, label=["a", {"b": []}]))
    first, second = codec.unpack(packed), codec.unpack(packed)
    first.label[1]["b"].append("changed")
    assert second.label == ["a", {"b": []}]
    assert codec.unpack(packed).label == ["a", {"b": []}]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            len,
            r"^outputs\['p'\] context is of type builtin_function.*, .*hold plain values",
        ),
        ({"f": [len]}, r"^outputs\['p'\] context\['f'\]\[0\] is of type builtin_function"),
        (torch.ones(1), r"^outputs\['p'\] context is a tensor inside a key, .* context, where"),
    ],
)
def test_a_context_that_cannot_be_a_constant(label: Any, message: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=message):
        pack({"p": Pair(1, 2, label)})


def test_children_are_named_in_errors() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"^outputs\[0\]\[1\]\['x'\] is of type builtin"):
        pack([Pair(1, {"x": len})])


def test_a_value_inside_itself() -> None:
    pair = Pair(1, None)
    pair.right = [pair]
    with pytest.raises(UnsupportedTypeError, match="contains itself"):
        pack(pair)


@pytest.mark.parametrize("flattened", [None, ([],), ([], None, 1), [[], None]])
def test_flatten_must_return_two(flattened: Any) -> None:
    register(Pair, lambda _: flattened, give)
    with pytest.raises(UnsupportedTypeError, match=r"must return \(children, context\), not "):
        pack(Pair(1, 2))


def test_what_the_functions_raise_is_not_hidden() -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("planted")

    packed = pack(Pair(1, 2))
    register(Pair, fail, fail)
    with pytest.raises(ZeroDivisionError, match="planted"):
        pack(Pair(1, 2))
    with pytest.raises(ZeroDivisionError, match="planted"):
        unpack(packed)


def test_unflatten_must_give_the_type() -> None:
    register(Pair, take, lambda children, _: children)
    with pytest.raises(FrameError, match=r"the registered unflatten of \S*Pair gave a list"):
        unpack(pack(Pair(1, 2)))


def test_registering_again_replaces_at_once() -> None:
    codec = Codec()
    packed = codec.pack(Pair(1, 2))
    assert codec.unpack(packed).right == 2
    register(Pair, take, lambda children, _: Pair(children[0], "new"))
    assert codec.unpack(packed).right == "new"
    register(Pair, take, give, name="a pair")
    assert "registered a pair" in describe(Pair(1, 2))
    with pytest.raises(FrameError, match=r"no type is registered as 'tests\.test_types:Pair'"):
        codec.unpack(packed)


@dataclasses.dataclass
class Box:
    value: Any


def test_a_registration_comes_before_what_is_known_of_a_dataclass() -> None:
    assert unpack(pack(Box(1))) == Box(1)
    register(Box, lambda box: ([box.value], "mine"), lambda c, label: Box([c[0], label]))
    assert unpack(pack(Box(1))) == Box([1, "mine"])


def test_wrong_registrations() -> None:
    with pytest.raises(TypeError, match="register: cls must be a class, not 3"):
        register(3, take, give)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="register: unflatten must be a function, not None"):
        register(Pair, take, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dict crosses by itself"):
        register(dict, take, give)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"'tests\.test_types:Pair' is registered for another type"
    ):
        register(Text, take, give, name="tests.test_types:Pair")  # type: ignore[arg-type]


class Known(Pair):
    """Registered with torch's pytree."""


pytree.register_pytree_node(
    Known, lambda known: ([known.left], known.label), lambda c, label: Known(*c, None, label)
)


def test_torchs_pytree_registrations_work() -> None:
    got = unpack(pack([Known(torch.ones(1), None, "l"), torch.ones(2, 2).max(0)]))
    assert type(got[0]) is Known
    assert got[0].label == "l"
    assert type(got[1]) is torch.return_types.max
    assert got[1].values.tolist() == [1, 1]


def test_a_pytree_type_that_this_process_does_not_know() -> None:
    packed = pack(Known(1, None))
    node = pytree.SUPPORTED_NODES.pop(Known)
    try:
        with pytest.raises(FrameError, match=r"'tests\.test_types:Known' .* call pipecodec\.regi"):
            unpack(packed)
    finally:
        pytree.SUPPORTED_NODES[Known] = node


def test_transformers_outputs_work_by_themselves() -> None:
    hidden = torch.ones(2, 3)
    value = BaseModelOutputWithPast(last_hidden_state=hidden, hidden_states=(hidden, hidden + 1))
    got = unpack(pack({"out": value}))["out"]
    assert type(got) is BaseModelOutputWithPast
    assert list(got.keys()) == ["last_hidden_state", "hidden_states"]
    assert got.past_key_values is None
    assert got.hidden_states[0] is got.last_hidden_state is hidden


def test_transformers_cache_by_one_call() -> None:
    register(
        DynamicCache,
        lambda cache: ([(layer.keys, layer.values) for layer in cache.layers], None),
        lambda children, _: DynamicCache(children),
    )
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.full((1, 2, 3, 4), layer), torch.zeros(1, 2, 3, 4), layer)
    got = unpack(pack({"cache": cache}))["cache"]
    assert type(got) is DynamicCache
    assert got.get_seq_length() == 3
    for mine, theirs in zip(cache.layers, got.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)
