"""The algorithm that pipecodec grew out of, written anew: paths and type codes as text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make", "make_with"]

NAME = "origin"
NOTE = (
    "Text of paths and type codes in a uint8 tensor, one tensor per number and None. Leaves out: "
    "dict keys, list or tuple, 64-bit floats, validation."
)

TENSOR, NUMBER, NONE = "0", "1", "2"


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch

    # The origin's own way from text to a tensor; torch warns of it at every call.
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated")

    def as_tensor(text: bytes) -> Any:
        return torch.tensor(torch.ByteStorage.from_buffer(text), dtype=torch.uint8)

    return make_with(as_tensor)


def make_with(
    as_tensor: Callable[[bytes], Any],
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    # Tensor.numpy() needs it; without it this contender is missing.
    import numpy  # noqa: F401
    import torch

    def walk(value: Any, path: str, entries: list[str], tensors: list[torch.Tensor]) -> None:
        for index, item in enumerate(value.values() if isinstance(value, dict) else value):
            here = f"{path}.{index}" if path else str(index)
            if isinstance(item, (tuple, list, dict)):
                walk(item, here, entries, tensors)
            elif isinstance(item, torch.Tensor):
                entries.append(f"{here},{TENSOR}")
                tensors.append(item)
            else:
                entries.append(f"{here},{NONE if item is None else NUMBER}")
                tensors.append(torch.tensor(0 if item is None else item))

    def send(value: Any) -> tuple[torch.Tensor, ...]:
        entries: list[str] = []
        tensors: list[torch.Tensor] = []
        walk(value, "", entries, tensors)
        return (*tensors, as_tensor("|".join(entries).encode()))

    def receive(wire: tuple[torch.Tensor, ...]) -> Any:
        root: list[Any] = []
        text = wire[-1].cpu().numpy().tobytes().decode()
        for tensor, entry in zip(wire, text.split("|"), strict=False):
            path, code = entry.split(",")
            node = root
            for token in path.split("."):
                index = int(token)
                while len(node) <= index:
                    node.append([])
                parent, node = node, node[index]
            if code == TENSOR:
                parent[index] = tensor
            else:
                parent[index] = None if code == NONE else tensor.tolist()
        return as_tuples(root)

    def as_tuples(node: Any) -> Any:
        return tuple(map(as_tuples, node)) if isinstance(node, list) else node

    return send, receive
