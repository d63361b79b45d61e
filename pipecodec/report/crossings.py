"""The leaves of a boundary's values: how each travels, and which cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import _C
from ..codec import Codec, pack, unpack
from ..describe import type_name
from ..errors import CodecError

__all__ = ["Leaf", "Packed", "Packer", "own_leaves"]

_CONTAINERS = {
    "DATACLASS",
    "DEFAULT_DICT",
    "DEQUE",
    "DICT",
    "FROZEN_SET",
    "LIST",
    "NAMED_TUPLE",
    "ORDERED_DICT",
    "REGISTERED",
    "SET",
    "TUPLE",
}
_NUMBERS = {"BIG_INT", "COMPLEX", "FLOAT", "INT"}
_ROUTES = {"frame": "frame", "raw slot": "own message", "slot": "own message", "tunnel": "tunnel"}


@dataclass(frozen=True)
class Leaf:
    """One leaf of a value; see ``Crossing`` for its fields."""

    name: str
    path: str
    kind: str
    travels: str
    text: str = ""
    """Of a value that is no tensor."""
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    nbytes: int = 0
    tensor: torch.Tensor | None = None
    """As the stage before the boundary gives it."""
    received: torch.Tensor | None = None
    """As the stage after it gets it: a copy, whose gradient is that of later stages alone."""
    alias: bool = False


@dataclass(frozen=True)
class Packed:
    """A boundary's values as they were packed."""

    leaves: list[Leaf]
    sizes: list[int]
    """Bytes of the messages; empty where some value cannot be packed."""
    faults: list[str]
    """Why values cannot be packed, or not as the first batch's were; each with its path."""
    passed: Sequence[Any]
    """The values that the next stage gets."""


def own_leaves(values: Mapping[str, Any]) -> list[Leaf]:
    """Return the leaves of inputs that the last stage takes from its own batch."""
    try:
        *apart, frame = pack(list(values.values()))
    except CodecError:
        return [
            Leaf(name, name, type(value).__name__, "own batch") for name, value in values.items()
        ]
    leaves = _leaves(list(values), [*apart, frame], apart, apart)
    return [dataclasses.replace(leaf, travels="own batch") for leaf in leaves]


class Packer:
    """Packs the values of one boundary as an engine does, with static shapes."""

    def __init__(self, boundary: int) -> None:
        self._codec = Codec(transport="tunnel", name=f"boundary {boundary}→{boundary + 1}")

    def look_at(self, values: Mapping[str, Any]) -> Packed:
        """Pack the values of a batch; those of the first one set the sizes of all."""
        good, faults = dict(values), list[str]()
        tensors, error = self._pack(good)
        if error is not None:
            bad = {name: found for name in values if (found := list(_faults(values[name], name)))}
            faults = [text for found in bad.values() for text in found]
            good = {name: value for name, value in values.items() if name not in bad}
            if bad:
                tensors, error = self._pack(good)
            if error is not None:
                faults.append(error)
                tensors = Codec(transport="tunnel", dynamic_shape=True).pack(list(good.values()))
        *apart, frame = pack(list(good.values()))
        copies = list(map(_copy, apart))
        whole = len(good) == len(values)
        leaves = list(_leaves(list(good), tensors, apart, copies if whole else apart))
        leaves += [
            Leaf(name, name, type(value).__name__, "cannot")
            for name, value in values.items()
            if name not in good
        ]
        return Packed(
            leaves,
            sizes=[] if faults else [each.numel() * each.element_size() for each in tensors],
            faults=faults,
            passed=unpack((*copies, frame)) if whole else list(values.values()),
        )

    def _pack(self, values: Mapping[str, Any]) -> tuple[tuple[torch.Tensor, ...], str | None]:
        self._codec.names = list(values)
        try:
            return self._codec.pack(list(values.values())), None
        except CodecError as error:
            return (), str(error)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with memory of its own, in which expanded dimensions stay expanded."""
    small = tensor
    for dim, (elements, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if elements > 1 and stride == 0:
            small = small.narrow(dim, 0, 1)
    return small.clone().expand_as(tensor) if small is not tensor else tensor.clone()


def _faults(value: Any, path: str) -> Iterator[str]:
    """Yield why a value cannot be packed, once for each part of a container."""
    codec = Codec(transport="tunnel", dynamic_shape=True)
    codec.names = [path]
    try:
        codec.pack([value])
        return
    except CodecError as error:
        text = str(error).removeprefix("boundary: ")
    if type(value) in (list, tuple):
        parts = [(f"{path}[{i}]", part) for i, part in enumerate(value)]
    elif type(value) is dict:
        parts = [(f"{path}[{key!r}]", part) for key, part in value.items()]
    else:
        parts = []
    found = [fault for where, part in parts for fault in _faults(part, where)]
    yield from found or [text]


def _leaves(
    names: Sequence[str],
    tensors: Sequence[torch.Tensor],
    sent: Sequence[torch.Tensor],
    received: Sequence[torch.Tensor],
) -> Iterator[Leaf]:
    place, ends = -1, zip(sent, received, strict=True)
    for depth, path, _, kind, text, children, tensor in _C.ReceivedFrame(tensors).rows():
        place += depth == 1
        if depth == 0 or (kind in _CONTAINERS and children):
            continue
        name, mark, _ = names[place].partition("@")
        if mark and text.endswith((".LOCAL", ".ABSENT")):
            continue  # an input that no stage changed: it is that of the last stage's own batch
        path = name + path.removeprefix(f"outputs[{place}]")
        if tensor is not None:
            dtype, shape, route, _, nbytes, _ = tensor
            own, copy = next(ends) if kind == "TORCH_TENSOR" else (None, None)
            yield Leaf(
                name, path, "tensor", _ROUTES[route], dtype=dtype, shape=shape,
                nbytes=nbytes if own is not None else 0, tensor=own, received=copy,
                alias=own is None,
            )  # fmt: skip
        elif text.endswith("Absent.ABSENT"):
            yield Leaf(name, path, "absent", "structure", text)
        else:
            shown = "bool" if kind in ("TRUE", "FALSE") else type_name(kind)
            yield Leaf(
                name, path, shown, "number" if kind in _NUMBERS else "structure", text or shown
            )
