"""Values that would not arrive as themselves: tensor types, attributes, dropped fields."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from transformers.modeling_outputs import BaseModelOutput

import pipecodec
from pipecodec import Codec, UnsupportedTypeError, pack, register, unpack
from tests.corpus import same


class Box(Tensor):
    pass


class Labelled(Tensor):
    """Registered below."""

    label: str


def labelled(tensor: Tensor, label: str) -> Labelled:
    made = tensor.as_subclass(Labelled)
    made.label = label
    return made


register(
    Labelled,
    lambda x: ([x.as_subclass(Tensor)], x.label),
    lambda children, label: labelled(children[0], label),
)


class Quantized(nn.Parameter):
    """As libraries for quantized weights have them."""


class Wrapper(Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called")


@dataclasses.dataclass
class Dropping:
    x: Any
    note: Any = "default"
    made: Any = dataclasses.field(init=False, default=0)


pytree.register_dataclass(Dropping, field_names=["x"], drop_field_names=["note"])


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str


pytree.register_constant(Setting)


class Opaque:
    def __init__(self) -> None:
        self.inside = 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque)

    def __hash__(self) -> int:
        return 1


pytree.register_constant(Opaque)


class Fields:
    """Like a dataclass, as register_dataclass says."""

    def __init__(self, a: Any = None, b: Any = None) -> None:
        self.a, self.b = a, b


pytree.register_dataclass(Fields, field_names=["a", "b"])


class Cached:
    __slots__ = ("cache",)


@dataclasses.dataclass
class WithSlot(Cached):
    x: Any


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.ones(2)


def with_attribute(value: Any) -> Any:
    value.extra = 1
    return value


def with_slot() -> Any:
    value = WithSlot(1)
    value.cache = 2
    return value


PLAIN = (
    r"a subclass of torch.Tensor, and would arrive as a plain one; send its .as_subclass\(torch.T"
)
LOST = r"that is no field of its class \('.*'\), which would be lost"

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "subclass": (
        lambda: torch.ones(2).as_subclass(Box),
        r"is of type tests.test_subclasses.Box, " + PLAIN,
    ),
    "parameter's subclass": (lambda: Quantized(torch.ones(2)), "Quantized, " + PLAIN),
    "parameter of a subclass": (lambda: nn.Parameter(torch.ones(2).as_subclass(Box)), PLAIN),
    "wrapper": (
        lambda: Tensor._make_wrapper_subclass(Wrapper, (2,)),
        "a subclass of torch.Tensor without memory of its own; send the plain tensors that it is",
    ),
    "fake": (fake, "FakeTensor, a subclass of torch.Tensor without memory"),
    "uninitialized parameter": (
        nn.UninitializedParameter,
        "no shape and no values yet; run the mo",
    ),
    "uninitialized buffer": (nn.UninitializedBuffer, "no shape and no values yet"),
    "attribute": (
        lambda: with_attribute(torch.ones(2)),
        r"is a tensor with an attribute, \.extra, which would not arrive; send that as a value",
    ),
    "numpy scalar": (lambda: np.float32(1), r"is of type numpy.float32, .*; send its \.item\(\)$"),
    "numpy float64": (lambda: np.float64(1), r"is of type numpy.float64, .*; send its \.item\(\)$"),
    "numpy str": (lambda: np.str_("a"), r"; send its \.item\(\)$"),
    "numpy array": (
        lambda: np.ones(2),
        r"numpy.ndarray, .*; send torch.from_numpy\(...\)",
    ),
    "constant": (Opaque, "Opaque, which torch's pytree has registered as a constant and does not"),
    "not a field": (lambda: with_attribute(Fields(1)), LOST),
    "not a field, pytree": (lambda: with_attribute(Dropping(1)), LOST),
    "not a field, ModelOutput": (lambda: with_attribute(BaseModelOutput(torch.ones(2))), LOST),
    "slot of a base class": (with_slot, "with a value in a slot " + LOST),
    "OrderedDict": (lambda: with_attribute(collections.OrderedDict(a=1)), LOST),
}


def run_local(value: Any) -> Any:
    class First(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"values": [value]}

    class Last(nn.Linear):
        def forward(self, values: Any) -> Any:
            return values

    part = pipecodec.partition_modules([First(1, 1), Last(1, 1)])
    return pipecodec.run_local(part, torch.ones(1))


def through_tunnel(value: Any) -> Any:
    sent = Codec(transport="tunnel").pack([value])
    copies = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in sent)
    return Codec(transport="tunnel").unpack(copies)


WAYS = {"pack": lambda v: unpack(pack([v])), "tunnel": through_tunnel, "run_local": run_local}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_is_refused_alike_by_every_way(kind: str, way: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(
        UnsupportedTypeError,
        match=r"(outputs|values)\[0\] is .*" + message.removeprefix("is "),
    ):
        WAYS[way](make())


@pytest.mark.parametrize("way", WAYS)
def test_registered_subclass_crosses_whole(way: str) -> None:
    base = torch.arange(4.0, requires_grad=True)
    (got,) = WAYS[way](labelled(base * 2, "a"))
    assert type(got) is Labelled and got.label == "a" and got.requires_grad
    assert torch.equal(got.as_subclass(Tensor), base * 2)


def test_gradient_of_a_registered_subclass_comes_back() -> None:
    base = torch.arange(4.0, requires_grad=True)
    sent = Codec(transport="tunnel").pack([labelled(base * 2, "a")])
    tunnel = sent[0].detach().requires_grad_()
    (got,) = Codec(transport="tunnel").unpack((tunnel, *sent[1:]))
    (got.as_subclass(Tensor) * 3).sum().backward()
    sent[0].backward(tunnel.grad)
    assert torch.equal(base.grad, torch.full((4,), 6.0))


@pytest.mark.parametrize("way", WAYS)
def test_parameters_and_buffers_cross_as_tensors(way: str) -> None:
    parameter, buffer = nn.Parameter(torch.ones(2)), nn.Buffer(torch.ones(3))
    parameter.note = buffer.note = 1
    for given in (parameter, buffer):
        (got,) = WAYS[way](given)
        assert torch.equal(got, given) and got.requires_grad is given.requires_grad
        assert type(got) is Tensor or got is given


@pytest.mark.parametrize("way", WAYS)
def test_notes_of_libraries_on_a_tensor_are_left_behind(way: str) -> None:
    given = torch.ones(2)
    given._dynamo_dynamic_indices = {0}
    (got,) = WAYS[way](given)
    assert torch.equal(got, given)


@pytest.mark.parametrize("way", WAYS)
def test_what_pytree_would_drop_crosses_whole(way: str) -> None:
    """register_dataclass leaves out fields, which its flatten said nothing of."""
    value = Dropping(torch.ones(2), note="other")
    value.made = 7
    for given in (value, Setting("l2"), {Setting("l2"): 1}):
        assert same(WAYS[way](given)[0], given)
    got = WAYS[way](Fields(torch.ones(2)))[0]
    assert type(got) is Fields and torch.equal(got.a, torch.ones(2)) and got.b is None


@pytest.mark.parametrize("way", WAYS)
def test_two_tensors_of_one_memory_arrive_as_two(way: str) -> None:
    whole = torch.arange(4.0)
    one, other = WAYS[way]([whole, whole.view(2, 2)])[0]
    assert torch.equal(one, whole) and torch.equal(other, whole.view(2, 2)) and one is not other


def test_subclass_in_a_key_is_refused_as_any_tensor_there() -> None:
    with pytest.raises(UnsupportedTypeError, match="is a tensor inside a key"):
        pack({(torch.ones(1).as_subclass(Box),): 1})


@pytest.mark.parametrize("transport", ["slots", "tunnel"])
def test_an_attribute_is_refused_of_a_value_met_before_too(transport: str) -> None:
    codec = Codec(transport=transport)
    for _ in range(4):
        codec.pack([torch.ones(2000)])
    with pytest.raises(UnsupportedTypeError, match=r"is a tensor with an attribute, \.ex"):
        codec.pack([with_attribute(torch.ones(2000))])
    codec.pack([torch.ones(2000)])
