"""The algorithm that pipecodec grew out of, written anew: paths and type codes as text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

__all__ = ["NAME", "NOTE", "make", "make_with"]

NAME = "origin"
NOTE = (
    "Text of paths and type codes in a uint8 tensor, one tensor per number and None. Leaves out: "
    "dict keys, list or tuple, 64-bit floats, validation."
)

# Its steps are kept where they cost: a code is an Enum member, looked up and compared for every
# leaf on both sides, and each leaf's path is followed from the root.
Kind = Enum("Kind", [("TENSOR", 0), ("NUMBER", 1), ("NONE", 2)])


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch

    # The origin's own way from text to a tensor; torch warns that it will go.
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated")

    def as_tensor(text: bytes) -> Any:
        return torch.tensor(torch.ByteStorage.from_buffer(text), dtype=torch.uint8, device="cpu")

    return make_with(as_tensor)


def make_with(
    as_tensor: Callable[[bytes], Any],
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    # Tensor.numpy() needs it; without it this contender is missing.
    import numpy  # noqa: F401
    import torch

    device = torch.device("cpu")

    def wrapped(leaf: Any) -> tuple[torch.Tensor, Kind]:
        if isinstance(leaf, torch.Tensor):
            return leaf, Kind.TENSOR
        if leaf is None:
            return torch.tensor(0, device=device), Kind.NONE
        if isinstance(leaf, (int, float)):
            return torch.tensor(leaf, device=device), Kind.NUMBER
        raise ValueError(f"no type code for {type(leaf)}")

    def unwrapped(tensor: torch.Tensor, code: int) -> Any:
        kind = Kind(code)
        if kind == Kind.NONE:
            return None
        return tensor if kind == Kind.TENSOR else tensor.tolist()

    def walk(items: Iterable[Any], path: str, entries: list[Any], tensors: list[Any]) -> None:
        for index, item in enumerate(items):
            here = f"{path}.{index}" if path else str(index)
            if isinstance(item, (tuple, list)):
                walk(item, here, entries, tensors)
            elif isinstance(item, dict):
                walk(item.values(), here, entries, tensors)
            else:
                tensor, kind = wrapped(item)
                tensors.append(tensor)
                entries.append((here, kind.value))

    def send(value: Any) -> tuple[torch.Tensor, ...]:
        entries: list[tuple[str, int]] = []
        tensors: list[torch.Tensor] = []
        walk(value.values() if isinstance(value, dict) else value, "", entries, tensors)
        text = "|".join([f"{path},{code}" for path, code in entries])
        return (*tensors, as_tensor(text.encode()))

    def receive(wire: tuple[torch.Tensor, ...]) -> Any:
        text = wire[-1].cpu().numpy().tobytes().decode()
        entries = [entry.split(",") for entry in text.split("|")]
        root: list[Any] = []
        for tensor, (path, code) in zip(wire[:-1], entries, strict=True):
            node = root
            for token in path.split("."):
                index = int(token)
                while len(node) <= index:
                    node.append([])
                parent, node = node, node[index]
            parent[index] = unwrapped(tensor, int(code))
        return as_tuples(root)

    def as_tuples(node: Any) -> Any:
        if isinstance(node, (list, tuple)):
            return tuple(as_tuples(item) for item in node)
        return node

    return send, receive
