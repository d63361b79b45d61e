"""torch's pytree in Python: flatten into leaves and a treespec, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "torch pytree"
NOTE = "torch.utils._pytree: leaves and a treespec object. Leaves out: bytes, as optree does."


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    from torch.utils import _pytree

    flatten, unflatten = _pytree.tree_flatten, _pytree.tree_unflatten

    def receive(wire: tuple[list[Any], Any]) -> Any:
        leaves, treespec = wire
        return unflatten(leaves, treespec)

    return flatten, receive
