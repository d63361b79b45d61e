"""jaxlib's pytree in C++: flatten into leaves and a treedef, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "jaxlib"
NOTE = "Leaves and a treedef object, JAX not needed. Leaves out: bytes, the order of dict keys."


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    # The module that jax.tree_util takes it from; jaxlib has no public name for it.
    from jaxlib import _jax

    flatten = _jax.pytree.default_registry().flatten

    def receive(wire: tuple[list[Any], Any]) -> Any:
        leaves, treedef = wire
        return treedef.unflatten(leaves)

    return flatten, receive
