"""Opens nested values: their parts, how to build them anew, and the tensors in them."""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = [
    "Parts",
    "containers_in",
    "copied",
    "hidden_in",
    "is_object",
    "lengths_in",
    "numbers_in",
    "open_function",
    "open_up",
    "put",
    "take",
    "tensors_in",
]

Path = tuple[Any, ...]

_NO_OBJECTS = (
    nn.Module,
    type,
    torch.Tensor,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    torch.Generator,
    TorchFunctionMode,
    dict,
    list,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    int,
    float,
    complex,
)
_MOST_REFERENTS = 500


class Parts(NamedTuple):
    """The parts of a value: their keys, themselves, and a function that builds it of new ones.

    ``kind`` is the container's type where source code can write it down, else None.
    """

    keys: Sequence[Any]
    children: list[Any]
    rebuild: Callable[[list[Any]], Any]
    kind: type | None


def open_up(value: Any) -> Parts | None:
    """Return the parts of a container or of a plain object, or None if `value` is neither."""
    kind = type(value)
    if kind in (tuple, list, torch.Size):
        return Parts(range(len(value)), list(value), kind, kind)
    if kind is slice:
        ends = [value.start, value.stop, value.step]
        return Parts(("start", "stop", "step"), ends, _slice_of, slice)
    if kind is dict:
        keys = list(value)
        return Parts(keys, list(value.values()), functools.partial(_dict_of, keys), dict)
    if kind is functools.partial:
        children = [value.func, value.args, dict(value.keywords)]
        return Parts(("func", "args", "keywords"), children, _partial_of, None)
    if kind in pytree.SUPPORTED_NODES:
        node = pytree.SUPPORTED_NODES[kind]
        children, context = node.flatten_fn(value)
        rebuild = functools.partial(_unflatten, node.unflatten_fn, context)
        return Parts(range(len(children)), list(children), rebuild, None)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        rebuild = functools.partial(_named_tuple_of, kind)
        return Parts(range(len(value)), list(value), rebuild, None)
    if is_object(value):
        keys = list(vars(value))
        return Parts(
            keys, list(vars(value).values()), functools.partial(_object_of, kind, keys), None
        )
    return None


def _slice_of(children: list[Any]) -> slice:
    return slice(*children)


def _dict_of(keys: list[Any], children: list[Any]) -> dict[Any, Any]:
    return dict(zip(keys, children, strict=True))


def _partial_of(children: list[Any]) -> Any:
    return functools.partial(children[0], *children[1], **children[2])


def _unflatten(unflatten: Callable[..., Any], context: Any, children: list[Any]) -> Any:
    return unflatten(children, context)


def _named_tuple_of(kind: Callable[..., Any], children: list[Any]) -> Any:
    return kind(*children)


def _object_of(kind: type, keys: list[str], children: list[Any]) -> Any:
    new: Any = object.__new__(kind)
    vars(new).update(zip(keys, children, strict=True))
    return new


def open_function(function: types.FunctionType) -> Parts:
    """Return the parts of a function: the variables of its closure, and its defaults."""
    cells = function.__closure__ or ()
    children = [cell.cell_contents if _filled(cell) else None for cell in cells]
    children += [function.__defaults__, function.__kwdefaults__]
    rebuild = functools.partial(
        _function_of, function.__code__, function.__globals__, function.__name__
    )
    return Parts((function.__code__, len(cells)), children, rebuild, None)


def _function_of(
    code: types.CodeType, scope: dict[str, Any], name: str, children: list[Any]
) -> types.FunctionType:
    *contents, defaults, keyword_defaults = children
    cells = tuple(map(types.CellType, contents))
    function = types.FunctionType(code, scope, name, defaults, cells)
    function.__kwdefaults__ = keyword_defaults
    return function


def is_object(value: Any) -> bool:
    """Whether `value` is an instance of a plain class, whose attributes may hold tensors.

    A key-value cache is one. A configuration is none: nobody puts tensors there.
    """
    if isinstance(value, _NO_OBJECTS) or callable(value) or not hasattr(value, "__dict__"):
        return False
    kind = type(value)
    return (
        kind.__module__.split(".")[0] not in ("torch", "enum", "numpy")
        and "config" not in kind.__name__.lower()
    )


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of all containers and tensors in `value`.

    `memo` keeps a container that occurs twice one. A tensor that occurs twice becomes two: where it
    came from must be seen.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if id(value) in memo:
        return memo[id(value)]
    new = value
    if value is not None and (parts := open_up(value)):
        new = parts.rebuild([copied(child, memo) for child in parts.children])
    memo[id(value)] = new
    return new


def take(value: Any, path: Path) -> Any:
    """Return the part of `value` at `path`, as :func:`tensors_in` gives it."""
    for key in path:
        value = _part(value, key)
    return value


def _part(value: Any, key: Any) -> Any:
    kind = type(value)
    if kind in (tuple, list, dict, torch.Size):
        return value[key]
    if kind is slice or kind is functools.partial:
        return getattr(value, key)
    if kind in pytree.SUPPORTED_NODES:
        return list(pytree.SUPPORTED_NODES[kind].flatten_fn(value)[0])[key]
    return value[key] if isinstance(value, tuple) else vars(value)[key]


def tensors_in(
    value: Any, path: Path = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield (path, tensor) for every tensor in `value`."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif value is not None and id(value) not in above and (parts := open_up(value)):
        for key, child in zip(parts.keys, parts.children, strict=True):
            yield from tensors_in(child, (*path, key), (*above, id(value)))


def numbers_in(
    value: Any, path: Path = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[Path, int | float]]:
    """Yield (path, number) for every int and float in `value`."""
    if type(value) in (int, float):
        yield path, value
    elif value is None or isinstance(value, torch.Tensor) or id(value) in above:
        return
    elif not isinstance(value, (str, bytes, int, float)) and (parts := open_up(value)):
        for key, child in zip(parts.keys, parts.children, strict=True):
            yield from numbers_in(child, (*path, key), (*above, id(value)))


def put(value: Any, path: Path, new: Any) -> bool:
    """Put `new` at `path` into a list, a dict or an object; return whether that was possible."""
    holder, key = take(value, path[:-1]), path[-1]
    if type(holder) in (list, dict):
        holder[key] = new
    elif is_object(holder):
        vars(holder)[key] = new
    else:
        return False
    return True


def containers_in(
    value: Any, path: Path = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[Path, Sequence[torch.Tensor]]]:
    """Yield (path, container) for every list or tuple of several tensors and nothing else."""
    if isinstance(value, torch.Tensor) or value is None or id(value) in above:
        return
    several = type(value) in (tuple, list) and len(value) > 1
    if several and all(isinstance(item, torch.Tensor) for item in value):
        yield path, value
        return
    if parts := open_up(value):
        for key, child in zip(parts.keys, parts.children, strict=True):
            yield from containers_in(child, (*path, key), (*above, id(value)))


def lengths_in(value: Any, path: Path = (), above: tuple[int, ...] = ()) -> dict[Path, int]:
    """Return the number of items of each list, tuple and dict in `value`, by path."""
    lengths: dict[Path, int] = {}
    if isinstance(value, (torch.Tensor, torch.Size)) or value is None or id(value) in above:
        return lengths
    parts = open_up(value)
    if parts is None:
        return lengths
    if isinstance(value, (tuple, list, dict)):
        lengths[path] = len(parts.keys)
    for key, child in zip(parts.keys, parts.children, strict=True):
        lengths |= lengths_in(child, (*path, key), (*above, id(value)))
    return lengths


def hidden_in(value: Any, wanted: Callable[[Any], bool]) -> Any:
    """Return an object for which `wanted` is true that an opaque `value` holds, or None.

    Looks into attributes, closures and items, to `_MOST_REFERENTS` objects.
    """
    todo, seen = [value], {id(value)}
    while todo and len(seen) < _MOST_REFERENTS:
        one = todo.pop()
        if wanted(one):
            return one
        for other in _referents(one):
            if id(other) not in seen:
                seen.add(id(other))
                todo.append(other)
    return None


def _referents(value: Any) -> list[Any]:
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = [cell for cell in value.__closure__ or () if _filled(cell)]
        return [*(cell.cell_contents for cell in cells), value.__defaults__, value.__kwdefaults__]
    if isinstance(value, (type, types.ModuleType, types.CodeType, nn.Module, torch.Tensor)):
        return []
    return gc.get_referents(value)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
