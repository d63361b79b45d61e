"""One corpus of structures for all tests, and the sameness of two values."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import struct
from typing import Any, NamedTuple

import torch

from pipecodec import register


class Point(NamedTuple):
    x: Any
    y: Any = None


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Output:
    hidden: Any
    mask: Any = None
    size: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Any


@dataclasses.dataclass
class Slotted:
    __slots__ = ("value",)
    value: Any


class Outer:
    class Inner(NamedTuple):
        value: Any


class Pair:
    """A container that neither Python nor torch knows; registered below."""

    def __init__(self, left: Any, right: Any, label: Any) -> None:
        self.left, self.right, self.label = left, right, label


register(Pair, lambda p: ([p.left, p.right], p.label), lambda c, label: Pair(*c, label))


class Plain:
    """A class whose values cannot be restored."""

    def __init__(self) -> None:
        raise AssertionError("no decoder may call __init__")


def tensors() -> dict[str, torch.Tensor]:
    """Return tensors that are hard to send, and some that are easy."""
    base = torch.arange(12.0).reshape(3, 4)
    return {
        "float32": base,
        "float64": base.double(),
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "float8": base.to(torch.float8_e4m3fn),
        "complex64": torch.complex(base, -base),
        "complex128": torch.complex(base, -base).to(torch.complex128),
        "int64": torch.arange(5),
        "uint16": torch.arange(5).to(torch.uint16),
        "bool": torch.tensor([True, False, True]),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "zero-dim": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "transposed": base.t(),
        "expanded": torch.ones(1, 4).expand(3, 4),
        "strided": base[:, ::2],
        "conj": torch.complex(base, base).conj(),
        "neg": torch.complex(base, base).conj().imag,
        "parameter": torch.nn.Parameter(base.clone()),
        "requires grad": base.clone().requires_grad_(),
        "nan": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        "large": torch.arange(3000),
    }


def structures() -> dict[str, Any]:
    """Return values of every kind that a frame can hold."""
    t = torch.arange(6.0).reshape(2, 3)
    u = torch.tensor([1, 2])
    return {
        "tensor": t,
        "None": None,
        "bools": [True, False],
        "ints": [0, 1, -1, 127, 128, 2**31, 2**63 - 1, -(2**63)],
        "big ints": [2**63, -(2**63) - 1, 2**64, 2**71, -(2**71), 10**50, -(10**50)],
        "floats": [0.0, -0.0, 0.1, 1e300, 5e-324, math.inf, -math.inf, math.nan],
        "NaN payload": struct.unpack("<d", bytes.fromhex("efbeadde0000f87f"))[0],
        "complex": [1 + 2j, complex(-0.0, math.nan)],
        "str": ["", "a", "héllo", "日本", "\N{GRINNING FACE}", "nul\0"],
        "bytes": [b"", b"\x00\xff"],
        "empty containers": ([], (), {}, set(), frozenset(), collections.deque()),
        "tensor and empty": (t, []),
        "nested": [(t, [u, {"a": (None, 3)}]), [[[]]]],
        "dict keys": {
            "s": 1,
            2: t,
            2.5: 3,
            None: 4,
            (1, ("a", 2**70)): 5,
            b"b": 6,
            frozenset([1]): 7,
            1j: 8,
        },
        "dict order": {"z": 1, "a": 2, "m": 3},
        "enum key": {Colour.RED: t},
        "OrderedDict": collections.OrderedDict([("z", t), ("a", 1)]),
        "defaultdict": collections.defaultdict(list, {"a": [t]}),
        "defaultdict without factory": collections.defaultdict(None, {1: 2}),
        "deque": collections.deque([t, 1], maxlen=5),
        "sets": ({1, "a", None, 2.5}, frozenset({(1, 2), 3})),
        "namedtuple": Point(t, Point(1)),
        "inner namedtuple": Outer.Inner(t),
        "dataclass": Output(t, [u]),
        "frozen dataclass": Frozen({"a": t}),
        "slotted dataclass": Slotted(t),
        "registered": Pair(t, [1, Pair(u, t, None)], {"k": [1, 2.5, "text"]}),
        "enums": [Colour.BLUE, Level.HIGH],
        "Size": [torch.Size([2, 3]), torch.Size([])],
        "dtypes": [torch.float32, torch.bool, torch.complex32, torch.float8_e5m2, torch.quint8],
        "devices": [torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")],
        "slices": [slice(None), slice(1, -1, 2), slice("a", 2.5, None)],
        "ranges": [range(5), range(10, 0, -3), range(2**70)],
        "aliases": [t, {"again": t}, (u, u)],
        "decoder boundary": (t, u, (t + 1, u + 1), None, 7, 0.5, True),
        "many": [torch.tensor(i) for i in range(300)],
        "many aliases": [u] * 20 + [t] * 20,
        "deep": _deep(150),
        "tensors": tensors(),
    }


def _deep(levels: int) -> Any:
    value: Any = torch.tensor(1)
    for _ in range(levels):
        value = [value]
    return value


def same(a: Any, b: Any) -> bool:
    """Return whether two values have the same types, order and bits, tensors included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same_tensor(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, enum.Enum):
        return a is b
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (set, frozenset)):
        return {(type(x), x) for x in a} == {(type(x), x) for x in b}
    if isinstance(a, dict):
        factories = (getattr(a, "default_factory", None), getattr(b, "default_factory", None))
        return factories[0] is factories[1] and same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple, collections.deque)):
        limits = (getattr(a, "maxlen", None), getattr(b, "maxlen", None))
        return limits[0] == limits[1] and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, slice):
        return same([a.start, a.stop, a.step], [b.start, b.stop, b.step])
    if isinstance(a, Pair):
        return same(vars(a), vars(b))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether both have the same bits, in any strides."""
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def raw(tensor: torch.Tensor) -> bytes:
    """Return the elements' bytes in order."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()
