"""A simple reference codec: docs/format.md in plain Python, without regard to speed.

It writes the frame that ``pipecodec.pack`` should write, byte for byte, and reads one with none of
its code.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import struct
import sys
from typing import Any

import torch
import xxhash

from tests.corpus import Pair

DTYPES = """
uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool
qint8 quint8 qint32 bfloat16 quint4x2 quint2x4 bits1x8 bits2x4 bits4x2 bits8 bits16
float8_e5m2 float8_e4m3fn float8_e5m2fnuz float8_e4m3fnuz uint16 uint32 uint64
uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7
float8_e8m0fnu float4_e2m1fn_x2
""".split()


def varint(n: int) -> bytes:
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def zigzag(n: int) -> int:
    return n * 2 if n >= 0 else -n * 2 - 1


def raw(data: bytes) -> bytes:
    return varint(len(data)) + data


def text(s: str) -> bytes:
    return raw(s.encode())


def class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def xxh64(data: bytes) -> int:
    return xxhash.xxh64_intdigest(data)


def pad(data: bytes, step: int) -> bytes:
    return data + bytes(-len(data) % step)


class Encoder:
    def __init__(self) -> None:
        self.leaves: list[torch.Tensor] = []
        self.shapes = self.values = b""

    def node(self, x: Any, constant: bool = False) -> bytes:
        if isinstance(x, torch.Tensor):
            return self.tensor(x)
        if isinstance(x, enum.Enum):
            return bytes([25]) + text(class_name(type(x))) + text(x.name)
        if x is None:
            return bytes([2])
        if isinstance(x, bool):
            return bytes([7 if x else 6])
        if isinstance(x, int):
            if not -(2**63) <= x < 2**63:
                return bytes([12]) + raw(big(x))
            return (
                bytes([11]) + varint(zigzag(x)) if constant else self.value(8, struct.pack("<q", x))
            )
        if isinstance(x, float):
            bits = struct.pack("<d", x)
            return bytes([13]) + bits if constant else self.value(9, bits)
        if isinstance(x, complex):
            bits = struct.pack("<dd", x.real, x.imag)
            return bytes([14]) + bits if constant else self.value(10, bits)
        if isinstance(x, str):
            return bytes([15]) + text(x)
        if isinstance(x, bytes):
            return bytes([16]) + raw(x)
        if isinstance(x, torch.Size):
            return bytes([26]) + self.items(x, True)
        if isinstance(x, torch.dtype):
            return bytes([27, DTYPES.index(str(x).removeprefix("torch."))])
        if isinstance(x, torch.device):
            return bytes([28]) + text(str(x))
        if isinstance(x, (slice, range)):
            parts = [self.node(part, True) for part in (x.start, x.stop, x.step)]
            return bytes([29 if isinstance(x, slice) else 30]) + b"".join(parts)
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return bytes([23]) + text(class_name(type(x))) + self.items(x, constant)
        if isinstance(x, Pair):
            parts = self.node(x.label, True) + self.node(x.left, constant)
            return bytes([31]) + text(class_name(Pair)) + varint(3) + parts + self.node(x.right)
        if dataclasses.is_dataclass(x):
            fields = {
                f.name: getattr(x, f.name) for f in dataclasses.fields(x) if hasattr(x, f.name)
            }
            return bytes([24]) + text(class_name(type(x))) + self.pairs(fields, constant)
        if isinstance(x, collections.OrderedDict):
            return bytes([18]) + self.pairs(x, constant)
        if isinstance(x, collections.defaultdict):
            name = "" if x.default_factory is None else class_name(x.default_factory)
            return bytes([19]) + text(name) + self.pairs(x, constant)
        if isinstance(x, dict):
            return bytes([17]) + self.pairs(x, constant)
        if isinstance(x, collections.deque):
            return (
                bytes([20])
                + varint(0 if x.maxlen is None else x.maxlen + 1)
                + self.items(x, constant)
            )
        if isinstance(x, (set, frozenset)):
            return bytes([21 if isinstance(x, set) else 22]) + self.items(x, True)
        return bytes([3 if isinstance(x, list) else 4]) + self.items(x, constant)

    def tensor(self, x: torch.Tensor) -> bytes:
        for index, leaf in enumerate(self.leaves):
            if leaf is x:
                return bytes([5]) + varint(index)
        self.leaves.append(x)
        self.shapes += b"".join(map(varint, x.shape))
        dtype = DTYPES.index(str(x.dtype).removeprefix("torch."))
        return bytes([0, dtype, 4 if x.requires_grad else 0]) + varint(x.dim())

    def value(self, code: int, bits: bytes) -> bytes:
        self.values += bits
        return bytes([code])

    def items(self, x: Any, constant: bool) -> bytes:
        return varint(len(x)) + b"".join(self.node(item, constant) for item in x)

    def pairs(self, x: dict[Any, Any], constant: bool) -> bytes:
        return varint(len(x)) + b"".join(
            self.node(k, True) + self.node(v, constant) for k, v in x.items()
        )


def big(x: int) -> bytes:
    size = 9
    while not -(1 << (size * 8 - 1)) <= x < 1 << (size * 8 - 1):
        size += 1
    return x.to_bytes(size, "little", signed=True)


def seal(structure: bytes, shapes: bytes, values: bytes, payload: bytes, leaves: int) -> bytes:
    """Return the bytes of a frame of these sections, without padding."""
    body = pad(pad(structure + shapes, 8) + values, 16) + payload
    front = b"\x89PCF" + struct.pack(
        "<BBHQIIIIQ",
        2,
        1,
        0,
        48 + len(body),
        len(structure),
        len(shapes),
        len(values),
        leaves,
        xxh64(structure),
    )
    return front + struct.pack("<Q", xxh64(front + struct.pack("<Q", xxh64(body)))) + body


def encode(x: Any) -> tuple[list[torch.Tensor], bytes]:
    """Return the slots and the frame (without padding) of ``pipecodec.pack``."""
    encoder = Encoder()
    structure = encoder.node(x)
    return encoder.leaves, seal(structure, encoder.shapes, encoder.values, b"", len(encoder.leaves))


class Decoder:
    def __init__(self, slots: list[torch.Tensor], frame: bytes) -> None:
        assert frame[:6] == b"\x89PCF\x02\x01"
        _, _, _, used, structure, shapes, values, _, _, checksum = struct.unpack(
            "<BBHQIIIIQQ", frame[4:48]
        )
        assert xxh64(frame[:40] + struct.pack("<Q", xxh64(frame[48:used]))) == checksum
        self.structure = frame[48 : 48 + structure]
        self.values = frame[(48 + structure + shapes + 7) // 8 * 8 :][:values]
        self.slots, self.at, self.value_at, self.leaf = slots, 0, 0, 0

    def u8(self) -> int:
        self.at += 1
        return self.structure[self.at - 1]

    def varint(self) -> int:
        byte = self.u8()
        return byte if byte < 0x80 else (byte & 0x7F) + self.varint() * 0x80

    def take(self, n: int) -> bytes:
        self.at += n
        return self.structure[self.at - n : self.at]

    def text(self) -> str:
        return self.take(self.varint()).decode()

    def value(self, form: str) -> Any:
        size = struct.calcsize(form)
        self.value_at += size
        return struct.unpack(form, self.values[self.value_at - size : self.value_at])

    def cls(self) -> Any:
        module, name = self.text().split(":")
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def items(self, n: int) -> list[Any]:
        return [self.node() for _ in range(n)]

    def pairs(self) -> list[tuple[Any, Any]]:
        return [(self.node(), self.node()) for _ in range(self.varint())]

    def node(self) -> Any:
        code = self.u8()
        if code == 0:
            _, _, _ = self.u8(), self.u8(), self.varint()
            self.leaf += 1
            return self.slots[self.leaf - 1]
        simple = {2: None, 6: False, 7: True}
        if code in simple:
            return simple[code]
        if code == 3:
            return self.items(self.varint())
        if code == 4:
            return tuple(self.items(self.varint()))
        if code == 5:
            return self.slots[self.varint()]
        if code == 8:
            return self.value("<q")[0]
        if code == 9:
            return self.value("<d")[0]
        if code == 10:
            return complex(*self.value("<dd"))
        if code == 11:
            n = self.varint()
            return n // 2 if n % 2 == 0 else -(n + 1) // 2
        if code == 12:
            return int.from_bytes(self.take(self.varint()), "little", signed=True)
        if code == 13:
            return struct.unpack("<d", self.take(8))[0]
        if code == 14:
            return complex(*struct.unpack("<dd", self.take(16)))
        if code == 15:
            return self.text()
        if code == 16:
            return self.take(self.varint())
        if code == 17:
            return dict(self.pairs())
        if code == 18:
            return collections.OrderedDict(self.pairs())
        if code == 19:
            at = self.at
            factory = None
            if self.text():
                self.at = at
                factory = self.cls()
            return collections.defaultdict(factory, self.pairs())
        if code == 20:
            limit = self.varint()
            return collections.deque(self.items(self.varint()), None if limit == 0 else limit - 1)
        if code in (21, 22):
            return (set if code == 21 else frozenset)(self.items(self.varint()))
        if code == 23:
            cls = self.cls()
            return cls(*self.items(self.varint()))
        if code == 24:
            made = object.__new__(self.cls())
            for name, value in self.pairs():
                object.__setattr__(made, name, value)
            return made
        if code == 25:
            return self.cls()[self.text()]
        if code == 26:
            return torch.Size(self.items(self.varint()))
        if code == 27:
            return getattr(torch, DTYPES[self.u8()])
        if code == 28:
            return torch.device(self.text())
        if code == 31:
            cls = self.cls()
            label, *children = self.items(self.varint())
            return cls(*children, label)
        return (slice if code == 29 else range)(*self.items(3))


def decode(slots: list[torch.Tensor], frame: bytes) -> Any:
    """Return the value of a frame of slots."""
    return Decoder(slots, frame).node()
