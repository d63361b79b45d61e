"""Watches the containers and objects that leaves keep in their attributes.

A dict that two layers share carries values from one to the other without any argument. On two ranks
it would be two dicts, so a change of it ties its holders to one stage.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import PartitionError
from .numbers import plain
from .structure import is_object
from .tape import Step, version_of

__all__ = ["Items", "Kept", "contents", "leaf_above", "mutables_in", "step_to"]

_MOST = 500
_INTERNAL = {*vars(nn.Module()), "forward"} - {"_buffers"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LIBRARIES = sys.stdlib_module_names - {"collections", "__main__"}


@dataclass
class _Holder:
    """A container, an object or a module, and the leaves from whose attributes it is reached."""

    value: Any
    name: str
    first: list[Any]
    last: list[Any]
    leaves: dict[str, None] = field(default_factory=dict)


class Items:
    """The items of a container or an object as they are now; equal to others of the same items."""

    def __init__(self, value: Any) -> None:
        self._items = [(key, plain(item), None) for key, item in contents(value)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Items) and _same(self._items, other._items)

    def __hash__(self) -> int:
        return len(self._items)


class Kept:
    """The containers, objects and modules that each leaf keeps, with their items."""

    def __init__(self, model: nn.Module, glue: Set[str], held: dict[int, str]) -> None:
        self._held = held
        self._holders: dict[int, _Holder] = {}
        self._of: dict[str, list[_Holder]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            if name not in glue:
                self._add(name, module, leaf_above(name, glue))
        self._changes: list[tuple[Step, _Holder, str, bool]] = []

    def _add(self, name: str, module: nn.Module, leaf: str) -> None:
        for path, value in [("", module), *mutables_in(_attributes(module))]:
            holder = self._holders.get(id(value))
            if holder is None:
                items = self._items(value)
                holder = _Holder(value, f"{name}{path}", items, items)
                self._holders[id(value)] = holder
            if leaf not in holder.leaves:
                holder.leaves[leaf] = None
                self._of.setdefault(leaf, []).append(holder)

    def before(self, step: Step, leaf: str) -> None:
        """Raise if code between the layers changed a thing that a leaf keeps."""
        for holder in self._of.get(leaf, ()):
            items = self._items(holder.value)
            if not (_same(items, holder.last) or _same(items, holder.first)):
                raise PartitionError(
                    f"the code between the layers changes {_changed(holder, items)}, before "
                    f"{step.place} calls {leaf}, which keeps it; the layer would not see that on "
                    f"another rank, so pass the value as an argument"
                )
            holder.last = items

    def after(self, step: Step, leaf: str) -> None:
        """Note the things that a leaf changed."""
        for holder in self._of.get(leaf, ()):
            items = self._items(holder.value)
            if not _same(items, holder.last):
                pairs = zip(items, holder.last, strict=False)
                numeric = len(items) != len(holder.last) or any(
                    not _same([a], [b]) and not isinstance(a[1], torch.Tensor) for a, b in pairs
                )
                self._changes.append((step, holder, _changed(holder, items), numeric))
                holder.last = items

    def finish(self, steps: list[Step]) -> dict[str, tuple[str, ...]]:
        """Let the steps that change a thing of several calls write into it; return who keeps it."""
        keepers: dict[str, tuple[str, ...]] = {}
        for step, holder, name, numeric in self._changes:
            calls = [s for s in steps if s.is_module and _is_of(str(s.target), holder.leaves)]
            if len(holder.leaves) > 1 or (numeric and len(calls) > 1):
                step.writes_held = tuple(dict.fromkeys((*step.writes_held, name)))
                keepers[name] = tuple(holder.leaves)
        return keepers

    def _items(self, value: Any) -> list[Any]:
        return [(key, item, _version(item, self._held)) for key, item in contents(value)]


def leaf_above(name: str, glue: Set[str]) -> str:
    """Return the outermost module at or above `name` that is no glue."""
    parts = name.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return next(leaf for leaf in above if leaf not in glue)


def mutables_in(attributes: list[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for each dict, list, deque, set and plain object in the attributes."""
    todo = [(f".{name}", value) for name, value in attributes]
    seen: set[int] = set()
    while todo and len(seen) < _MOST:
        path, value = todo.pop()
        if isinstance(value, (*_PLAIN, torch.Tensor)) or id(value) in seen:
            continue
        seen.add(id(value))
        mutable = _is_mutable(value)
        if mutable:
            yield path, value
        if mutable or isinstance(value, (tuple, frozenset)):
            todo += [(f"{path}{step_to(value, key)}", item) for key, item in contents(value)]


def contents(value: Any) -> list[tuple[Any, Any]]:
    """Return the (key, item) pairs of a container, an object's attributes or a module's own."""
    if isinstance(value, nn.Module):
        return _attributes(value)
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (set, frozenset)):
        return list(enumerate(sorted(value, key=id)))
    if isinstance(value, (list, tuple, deque)):
        return list(enumerate(value))
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = [(name, getattr(value, name)) for name in slots if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).items(), *found]


def step_to(value: Any, key: Any) -> str:
    """Return how source code takes an item out of a container, or an attribute of an object."""
    indexed = isinstance(value, (dict, list, tuple, deque, set, frozenset))
    return f"[{key!r}]" if indexed else f".{key}"


def _attributes(module: nn.Module) -> list[tuple[Any, Any]]:
    own = [(name, value) for name, value in vars(module).items() if name not in _INTERNAL]
    return [pair for pair in own if pair[0] != "_buffers"] + list(module._buffers.items())


def _slots(kind: type) -> tuple[str, ...]:
    names = vars(kind).get("__slots__", ())
    given = (names,) if isinstance(names, str) else tuple(names)
    return tuple(name for name in given if name not in ("__dict__", "__weakref__"))


def _is_mutable(value: Any) -> bool:
    if isinstance(value, (dict, list, deque, set)):
        return True
    slotted = any(map(_slots, type(value).__mro__)) and not isinstance(value, tuple)
    library = type(value).__module__.split(".")[0] in {*_LIBRARIES, "torch", "numpy", "enum"}
    if library or isinstance(value, (type, nn.Module)) or callable(value):
        return type(value).__module__ == "types" and type(value).__name__ == "SimpleNamespace"
    return is_object(value) or (slotted and "config" not in type(value).__name__.lower())


def _is_of(target: str, leaves: dict[str, None]) -> bool:
    return any(f"{target}.".startswith(f"{leaf}.") for leaf in leaves)


def _version(item: Any, held: dict[int, str]) -> int | None:
    own = isinstance(item, torch.Tensor) and id(item) not in held  # those have a guard of their own
    return version_of(item) if own else None


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        len(a) == len(b) and a[0] == b[0] and a[2] == b[2] and _same_item(a[1], b[1])
        for a, b in zip(one, other, strict=True)
    )


def _same_item(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, _PLAIN):
        return bool(one == other) or (one != one and other != other)
    return isinstance(one, (dict, list, tuple, set, deque)) and not one and not other


def _changed(holder: _Holder, items: list[Any]) -> str:
    """Return the name of the first item of a holder that changed."""
    before = {repr(key): (key, item, version) for key, item, version in holder.last}
    for key, item, version in items:
        if not _same([before.get(repr(key), ())], [(key, item, version)]):
            return f"{holder.name}{step_to(holder.value, key)}"
    return holder.name
