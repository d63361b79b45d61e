"""A frame as a tree on a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from ..errors import FrameError
from .terminal import printable

if TYPE_CHECKING:
    from .frame_text import FrameText, Leaf, Node

__all__ = ["as_dict", "show_tree"]

MOST = 2_000
"""Nodes that the tree shows; --json has all that were read."""

DEEPEST = 12
"""Levels of the tree on a wide terminal; nodes below stand in the last one."""

ROOM = 40
"""Columns that are left to a node's own text."""


def show_tree(frame: FrameText, error: FrameError | None, console: Console) -> None:
    """Print header, sections and structure of a frame."""
    with console.capture() as captured:
        deepest = max(1, min(DEEPEST, (console.width - ROOM) // 4))
        console.print(_tree(frame, error, deepest))
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _tree(frame: FrameText, error: FrameError | None, deepest: int) -> Tree:
    root = Tree(Text(f"frame of {frame.size:,} bytes", "bold"))
    if frame.header:
        header = root.add(Text("header", "bold"))
        for field in frame.header:
            header.add(_at(field.offset, f"{field.name}: {field.text}"))
    if frame.sections:
        sections = root.add(Text("sections", "bold"))
        for each in frame.sections:
            sections.add(_at(each.begin, f"{each.name}: {each.end - each.begin:,} bytes"))
    if frame.nodes:
        structure = root.add(Text("structure", "bold"))
        _add_nodes(structure, frame, deepest)
    if error is not None:
        where = (
            "" if error.offset is None else f" at byte {error.offset}, {frame.place(error.offset)}"
        )
        root.add(Text(printable(f"broken: {error.reason}{where}"), "bold red"))
    if frame.stopped is not None:
        root.add(Text(printable(f"not read on: {frame.stopped}"), "red"))
    return root


def _at(offset: int, text: str) -> Text:
    made = Text(f"{offset:>5}  ", "dim")
    return made.append(printable(text), "not dim")


def _add_nodes(root: Tree, frame: FrameText, deepest: int) -> None:
    branches = [root]
    for node in frame.nodes[:MOST]:
        if node.role == "key" and not node.children:
            continue  # the label of its value
        del branches[node.depth + 1 :]
        while len(branches) < node.depth + 1:
            branches.append(branches[-1])
        above = branches[min(node.depth, deepest)]
        branches.append(above.add(_at(node.offset, f"{node.label.strip()}: {_text(node)}")))
    if len(frame.nodes) > MOST:
        root.add(Text(f"and {len(frame.nodes) - MOST:,} more nodes: see --json", "dim"))


def _text(node: Node) -> str:
    if node.leaf is not None:
        return f"tensor {_leaf(node.leaf)}"
    parts = [] if node.text == node.type else [node.type]
    parts += [node.text] if node.text else []
    parts += [f"({node.items})"] if node.holds else []
    return " ".join(parts)


def _leaf(leaf: Leaf) -> str:
    shape = "nested" if leaf.shape is None else str(list(leaf.shape[:50]))
    text = f"{leaf.dtype} {shape}"
    if leaf.strides is not None:
        text += f" with strides {list(leaf.strides[:50])}"
    return f"{text}, {leaf.route}{', requires grad' if leaf.requires_grad else ''}"


def as_dict(frame: FrameText, error: FrameError | None) -> dict[str, Any]:
    """Return all that was read, fit for JSON."""
    return {
        "bytes": frame.size,
        "error": None
        if error is None
        else {
            "reason": error.reason,
            "offset": error.offset,
            "where": None if error.offset is None else frame.place(error.offset),
            "text": str(error).removeprefix("describe: "),
        },
        "header": {each.name: {"offset": each.offset, "value": each.text} for each in frame.header},
        "sections": [dataclasses.asdict(each) for each in frame.sections],
        "nodes": [_node(frame, index) for index in range(len(frame.nodes))],
        "not_read_on": frame.stopped,
    }


def _node(frame: FrameText, index: int) -> dict[str, Any]:
    node = frame.nodes[index]
    return {
        "path": frame.path(index),
        "depth": node.depth,
        "role": node.role,
        "type": node.type,
        "code": node.kind,
        "offset": node.offset,
        "value": node.text or None,
        "children": node.items,
        "leaf": None if node.leaf is None else dataclasses.asdict(node.leaf),
    }
