"""optree: flatten into leaves and a treespec, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "optree"
NOTE = "Leaves and a treespec object. Leaves out: bytes (nothing could cross to another process)."


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import optree

    flatten, unflatten = optree.tree_flatten, optree.tree_unflatten

    def receive(wire: tuple[list[Any], Any]) -> Any:
        leaves, treespec = wire
        return unflatten(treespec, leaves)

    return flatten, receive
