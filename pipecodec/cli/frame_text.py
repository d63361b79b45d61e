"""All of a frame that could be read: header, sections, nodes, and places in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..describe import type_name

__all__ = [
    "FIELDS",
    "HEADER",
    "LIST",
    "NAMED",
    "PAIRS",
    "Field",
    "FrameText",
    "Leaf",
    "Node",
    "Section",
]

HEADER = 48
FIELDS = (
    ("magic", 0, 4), ("version", 4, 1), ("flags", 5, 1), ("reserved", 6, 2), ("used", 8, 8),
    ("structure bytes", 16, 4), ("shapes bytes", 20, 4), ("values bytes", 24, 4),
    ("leaves", 28, 4), ("structure hash", 32, 8), ("checksum", 40, 8),
)  # fmt: skip
PAIRS = {"DICT", "ORDERED_DICT", "DEFAULT_DICT", "DATACLASS"}
LIST = {"LIST", "TUPLE", "SET", "FROZEN_SET", "SIZE"}
NAMED = {"DEFAULT_DICT", "NAMED_TUPLE", "DATACLASS", "REGISTERED"}
_STEPS = 12
"""Steps at the end of a path that are shown."""


@dataclass(frozen=True)
class Field:
    """A field of the header: its name, its first byte, its value as text."""

    name: str
    offset: int
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the frame: its bytes from ``begin`` to ``end``, as the header has them."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Leaf:
    """A tensor node's dtype, shape, strides (in elements, None where it has none) and flags."""

    dtype: str
    shape: tuple[int, ...] | None
    strides: tuple[int, ...] | None
    route: str
    requires_grad: bool
    nested: bool


@dataclass
class Node:
    """A node of the structure.

    ``label`` is its place in its parent; ``role`` is "key" or "context" for such constants, and
    "value" for all else; ``children`` counts nodes, two for each pair, and ``items`` pairs.
    """

    depth: int
    label: str
    role: str
    kind: str
    offset: int
    constant: bool
    parent: int | None
    text: str = ""
    children: int = 0
    leaf: Leaf | None = None

    @property
    def type(self) -> str:
        """Its type as users write it."""
        return "bool" if self.kind in ("FALSE", "TRUE") else type_name(self.kind)

    @property
    def holds(self) -> bool:
        """Whether it is a container."""
        return self.kind in LIST | NAMED | PAIRS | {"DEQUE", "SLICE", "RANGE"}

    @property
    def items(self) -> int:
        """Its children: pairs of a dict, fields of a dataclass, without a registered context."""
        if self.kind in PAIRS:
            return self.children // 2
        return self.children - (self.kind == "REGISTERED")


@dataclass
class FrameText:
    """All of a frame that could be read.

    ``stopped`` says why no more nodes were, and is None where all were; ``at`` has the first byte
    of every node that was begun and of its shape, with the node that it is in and its label.
    """

    size: int
    header: list[Field] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    stopped: str | None = None
    ends: tuple[int, int] = (0, 0)
    """Where the structure and the shapes were read to."""
    at: list[tuple[int, int | None, str]] = field(default_factory=list)

    def path(self, index: int | None) -> str:
        """Return a node's path, such as ``outputs[2]['mask']``; of a deep one its end."""
        steps: list[str] = []
        while index is not None and len(steps) <= _STEPS:
            steps.append(self.nodes[index].label)
            index = self.nodes[index].parent
        return "".join(reversed(steps)) if index is None else "…" + "".join(reversed(steps[:-1]))

    def place(self, offset: int) -> str:
        """Return in words where a byte of the frame stands."""
        if offset < HEADER:
            begun = [name for name, begin, _ in FIELDS if begin <= offset]
            return f"in the header, {begun[-1]}"
        section = next((each for each in self.sections if each.begin <= offset < each.end), None)
        if section is None:
            return "behind the last section"
        read_to = dict(zip(("structure", "shapes"), self.ends, strict=True)).get(section.name)
        if read_to is None:
            return f"in the {section.name}"
        if offset >= read_to and self.stopped is None:
            return f"in the {section.name}, behind its last item"
        within = [each for each in self.at if section.begin <= each[0] <= offset]
        if not within:
            return f"in the {section.name}"
        _, parent, label = max(within, key=lambda each: each[0])
        return f"in the {section.name}, {self.path(parent)}{label}"
