"""Reads a frame's bytes for people, as far as they can be read; docs/format.md in Python.

The compiled part alone decides whether a frame is right. This shows where everything stands, in
frames that are broken too, so it refuses nothing that it can read on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .. import _C
from .frame_text import FIELDS, HEADER, NAMED, PAIRS, Field, FrameText, Leaf, Node, Section

__all__ = ["DTYPES", "MAGIC", "read"]

DTYPES = """
uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool
qint8 quint8 qint32 bfloat16 quint4x2 quint2x4 bits1x8 bits2x4 bits4x2 bits8 bits16
float8_e5m2 float8_e4m3fn float8_e5m2fnuz float8_e4m3fnuz uint16 uint32 uint64
uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7
float8_e8m0fnu float4_e2m1fn_x2
""".split()
ROUTES = ("slot", "raw slot", "tunnel", "frame")
MAGIC = b"\x89PCF"
MOST_NODES = 200_000
"""Nodes that are read: each is a Python object, and a hostile frame has one in each byte."""

_KINDS = {code: name for name, code in _C.TYPE_CODES.items()}
_CONSTANT = {"SET", "FROZEN_SET", "SIZE", "SLICE", "RANGE"}
_PLAIN = {"TRUE_NONE": "None", "FALSE": "False", "TRUE": "True"}
_TEXT = 200
"""Characters of a text that are shown."""
_KEY_NODES = 20
"""Nodes of a key that are shown."""


class _Stop(Exception):
    """The bytes cannot be read on."""


class _Bytes:
    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self.data, self.at, self.end = data, min(begin, len(data)), min(end, len(data))

    def take(self, n: int) -> bytes:
        if n > self.end - self.at:
            raise _Stop(f"{n} bytes are needed at byte {self.at}, {self.end - self.at} are left")
        self.at += n
        return self.data[self.at - n : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise _Stop(f"the varint that ends at byte {self.at} is larger than 64 bits")

    def text(self) -> str:
        return _head(self.take(self.varint()))

    def number(self, form: str) -> tuple[float, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))


def _head(data: bytes) -> str:
    text = data[: 4 * _TEXT].decode("utf-8", "backslashreplace")
    return text if len(data) <= _TEXT else f"{text[:_TEXT]}…"


def read(data: bytes) -> FrameText:
    """Read as much of a frame as can be read; never raises, whatever the bytes are."""
    made = FrameText(len(data))
    for name, offset, length in FIELDS:
        if offset + length <= len(data):
            made.header.append(Field(name, offset, _shown(name, data[offset : offset + length])))
    if len(data) < HEADER:
        made.stopped = "the header is not complete"
        return made
    if data[:4] != MAGIC:
        made.stopped = "these are not the bytes of a frame"
        return made
    used, structure, shapes, values = struct.unpack("<QIII", data[8:28])
    ends = [HEADER, HEADER + structure, HEADER + structure + shapes]
    at = -(-ends[-1] // 8) * 8
    ends += [at, at + values]
    payload = -(-ends[-1] // 16) * 16
    names = ("structure", "shapes", "zeros before the values", "values", "zeros before the payload")
    bounds = [*ends, payload]
    made.sections = [
        Section(name, begin, end)
        for name, begin, end in zip(names, bounds[:-1], bounds[1:], strict=True)
    ]
    made.sections.append(Section("payload", payload, max(payload, used)))
    made.sections.append(Section("padding", max(payload, used), max(len(data), payload, used)))
    made.sections = [each for each in made.sections if each.end > each.begin]
    reader = _Reader(data, made, ends)
    try:
        reader.run()
    except _Stop as stop:
        made.stopped = str(stop)
    made.ends = (reader.structure.at, reader.shapes.at)
    return made


def _shown(name: str, data: bytes) -> str:
    if name == "magic":
        return data.hex(" ")
    number = int.from_bytes(data, "little")
    if name in ("structure hash", "checksum"):
        return f"{number:016x}"
    if name == "flags":
        return f"{number} ({'payload covered' if number & 1 else 'payload not covered'})"
    return str(number)


class _Reader:
    def __init__(self, data: bytes, made: FrameText, ends: list[int]) -> None:
        self.made = made
        self.structure = _Bytes(data, ends[0], ends[1])
        self.shapes = _Bytes(data, ends[1], ends[2])
        self.values = _Bytes(data, ends[3], ends[4])

    def run(self) -> None:
        """Read the nodes; the containers that are open are on a stack of their own."""
        open_: list[Iterator[tuple[str, str]]] = []
        parents: list[int] = []
        steps: Iterator[tuple[str, str]] = iter([("value", "outputs")])
        while True:
            step = next(steps, None)
            if step is None:
                if not open_:
                    return
                steps = open_.pop()
                parents.pop()
                continue
            parent = parents[-1] if parents else None
            index = self._node(*step, len(parents), parent)
            if self.made.nodes[index].children:
                open_.append(steps)
                parents.append(index)
                steps = self._children(index)

    def _children(self, index: int) -> Iterator[tuple[str, str]]:
        """Yield role and label of each child, when the children before it have been read."""
        node = self.made.nodes[index]
        if node.kind in PAIRS:
            for i in range(node.children // 2):
                key = len(self.made.nodes)
                yield "key", f" (key {i})"
                yield "value", self._label(key, node.kind)
        elif node.kind in ("SLICE", "RANGE"):
            yield from (("value", f".{name}") for name in ("start", "stop", "step"))
        elif node.kind == "REGISTERED":
            yield "context", " (context)"
            yield from (("value", f"[{i}]") for i in range(node.children - 1))
        else:
            yield from (("value", f"[{i}]") for i in range(node.children))

    def _label(self, key: int, kind: str) -> str:
        text = self._constant(key)
        if kind == "DATACLASS":
            return f".{text[1:-1]}"
        return f"[{text}]"

    def _constant(self, index: int) -> str:
        """Return a key with all in it as one short text, such as ``('a', (1, 2))``."""
        text, depth = "", self.made.nodes[index].depth
        for node in self.made.nodes[index : index + _KEY_NODES]:
            text += ")" * (depth - node.depth)
            text += "" if not text or text.endswith("(") else ", "
            depth = node.depth
            if node.holds:
                text += "(" if node.kind == "TUPLE" else f"{node.type}("
                depth += 1
            else:
                text += node.text
        whole = len(self.made.nodes) <= index + _KEY_NODES
        text += ")" * (depth - self.made.nodes[index].depth) if whole else "…"
        return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"

    def _node(self, role: str, label: str, depth: int, parent: int | None) -> int:
        made, bytes_ = self.made, self.structure
        if len(made.nodes) >= MOST_NODES:
            raise _Stop(f"there are more than {MOST_NODES:,} nodes")
        above = made.nodes[parent] if parent is not None else None
        constant = role != "value" or (
            above is not None and (above.constant or above.kind in _CONSTANT)
        )
        offset = bytes_.at
        made.at.append((offset, parent, label))
        code = bytes_.u8()
        if code not in _KINDS or _KINDS[code] == "SCALAR":
            raise _Stop(f"there is no type code {code}, which stands at byte {offset}")
        node = Node(depth, label, role, _KINDS[code], offset, constant, parent)
        self._content(node)
        made.nodes.append(node)
        return len(made.nodes) - 1

    def _content(self, node: Node) -> None:
        kind, bytes_ = node.kind, self.structure
        if kind == "TORCH_TENSOR":
            node.leaf = self._leaf(node)
        elif kind in _PLAIN:
            node.text = _PLAIN[kind]
        elif kind == "ALIAS":
            node.text = f"of leaf {bytes_.varint()}"
        elif kind == "INT":
            node.text = str(self.values.number("<q")[0])
        elif kind == "FLOAT":
            node.text = repr(self.values.number("<d")[0])
        elif kind in ("COMPLEX", "CONST_COMPLEX"):
            of = self.values if kind == "COMPLEX" else bytes_
            node.text = str(complex(*of.number("<dd")))
        elif kind == "CONST_INT":
            number = bytes_.varint()
            node.text = str(number // 2 if number % 2 == 0 else -(number + 1) // 2)
        elif kind == "CONST_FLOAT":
            node.text = repr(bytes_.number("<d")[0])
        elif kind == "BIG_INT":
            raw = bytes_.take(bytes_.varint())
            big = int.from_bytes(raw, "little", signed=True)
            node.text = hex(big) if len(raw) <= _TEXT else f"integer of {len(raw)} bytes"
        elif kind == "STR":
            node.text = repr(bytes_.text())
        elif kind == "BYTES":
            raw = bytes_.take(bytes_.varint())
            node.text = repr(raw) if len(raw) <= _TEXT else f"{len(raw)} bytes"
        elif kind == "DEVICE":
            node.text = bytes_.text()
        elif kind == "ENUM":
            node.text = f"{bytes_.text()}.{bytes_.text()}"
        elif kind == "DTYPE":
            node.text = f"torch.{self._dtype()}"
        else:
            self._container(node)

    def _container(self, node: Node) -> None:
        kind, bytes_ = node.kind, self.structure
        if kind in NAMED:
            node.text = bytes_.text()
        if kind == "DEQUE":
            limit = bytes_.varint()
            node.text = f"maxlen {limit - 1}" if limit else ""
        if kind in ("SLICE", "RANGE"):
            node.children = 3
            return
        at = bytes_.at
        node.children = bytes_.varint() * (2 if kind in PAIRS else 1)
        if node.children > bytes_.end - bytes_.at:
            raise _Stop(
                f"{node.children} nodes are announced at byte {at}, {bytes_.end - bytes_.at} bytes "
                "are left"
            )

    def _dtype(self) -> str:
        code = self.structure.u8()
        if code >= len(DTYPES):
            raise _Stop(f"there is no dtype code {code}, which stands at {self.structure.at - 1}")
        return DTYPES[code]

    def _leaf(self, node: Node) -> Leaf:
        dtype = self._dtype()
        flags = self.structure.u8()
        count = self.structure.varint()
        self.made.at.append((self.shapes.at, node.parent, node.label))
        if count > self.shapes.end - self.shapes.at:
            raise _Stop(f"{count} dimensions are announced, more than the bytes of shapes")
        shape = tuple(self.shapes.varint() for _ in range(count))
        strides = tuple(self.shapes.varint() for _ in range(count)) if flags & 16 else None
        nested = bool(flags & 8)
        return Leaf(
            dtype, None if nested else shape, strides, ROUTES[flags & 3], bool(flags & 4), nested
        )
