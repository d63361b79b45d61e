"""Types that cross a boundary by a pair of functions that take them apart and put them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from . import _C
from .arguments import described, instance

__all__ = ["register"]

_T = TypeVar("_T")

_BUILT_IN = {
    *(torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device),
    *(type(None), bool, int, float, complex, str, bytes, slice, range),
    *(tuple, list, dict, set, frozenset),
}


def register(
    cls: type[_T],
    flatten: Callable[[_T], tuple[Iterable[Any], Any]],
    unflatten: Callable[[list[Any], Any], _T],
    name: str | None = None,
) -> None:
    """Let values of a type cross boundaries: exactly `cls`, and no subclass of it.

    Call it in every process that packs or unpacks such a value, before it does. A type in
    torch's pytree (``torch.utils._pytree.register_pytree_node``; each ``ModelOutput`` of
    transformers is) needs no call. A registration here precedes that one, and pipecodec's own
    handling of enums, namedtuples and dataclasses. Registering a type again replaces its functions.

    A subclass of ``torch.Tensor`` crosses in this way only; unregistered it is refused, since it
    would arrive as a plain tensor. Its flatten gives that, as in
    ``([x.as_subclass(torch.Tensor)], None)``.

    Args:
        cls: the type; a subclass of it needs a registration of its own.
        flatten: takes a value to (children, context). Children may be or hold anything that can
            cross, tensors among them; the context belongs to the structure and holds no tensor and
            no function, only plain values.
        unflatten: takes (list of children, context) to a value of exactly this type.
        name: the type's name in frames, the same in every process; None:
            ``module:qualified.name``.

    Raises:
        TypeError: `cls` is no class, a function cannot be called, or `name` is no text.
        ValueError: `cls` crosses by itself, or another type has that name.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register: cls must be a class, not {described(cls)}")
    for argument, function in (("flatten", flatten), ("unflatten", unflatten)):
        if not callable(function):
            raise TypeError(f"register: {argument} must be a function, not {described(function)}")
    if cls in _BUILT_IN:
        raise ValueError(f"{cls.__qualname__} crosses by itself and cannot be registered")
    instance("name", name, (str, type(None)), "a text, or None")
    _C.register(cls, flatten, unflatten, name or f"{cls.__module__}:{cls.__qualname__}")
