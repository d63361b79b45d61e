"""torch's pytree in C++ (optree underneath): flatten into leaves and a treespec, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "torch C++ pytree"
NOTE = "torch.utils._cxx_pytree: torch's face of optree. Leaves out: bytes, as optree does."


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    from torch.utils import _cxx_pytree

    flatten, unflatten = _cxx_pytree.tree_flatten, _cxx_pytree.tree_unflatten

    def receive(wire: tuple[list[Any], Any]) -> Any:
        leaves, treespec = wire
        return unflatten(leaves, treespec)

    return flatten, receive
