"""Checks of the arguments of public functions: each error names argument, demand and value.

An argument that is no such object is a ``TypeError``, an option without such a value a
``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

__all__ = [
    "described",
    "device_of",
    "flag",
    "function",
    "instance",
    "items",
    "names",
    "number",
    "one_of",
    "seconds",
    "whole_number",
]

_PLAIN = (bool, int, float, str, bytes, type(None))
_SHOWN = 60
"""Characters of a plain value that a message shows."""


def described(value: object) -> str:
    """Return a plain value as it is written, and the type of any other: "a Linear"."""
    if isinstance(value, _PLAIN):
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def instance(
    argument: str, value: object, types: type | tuple[type, ...], must: str, hint: str = ""
) -> None:
    """Raise ``TypeError`` unless ``value`` has one of ``types``, which ``must`` describes."""
    if not isinstance(value, types):
        raise TypeError(f"{argument} must be {must}, not {described(value)}{hint}")


def function(argument: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` can be called, or is None."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} must be a function, or None, not {described(value)}")


def one_of(argument: str, value: object, *allowed: str | bool | None) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if not (isinstance(value, (str, bool, type(None))) and value in allowed):
        raise ValueError(
            f"{argument} must be one of {', '.join(map(repr, allowed))}, not {described(value)}"
        )


def flag(argument: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{argument} must be True or False, not {described(value)}")


def whole_number(argument: str, value: object, must: str, least: float = -math.inf) -> None:
    """Raise ``ValueError`` unless ``value`` is an int of at least ``least``, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{argument} must be {must}, not {described(value)}")


def number(argument: str, value: Any) -> float:
    """Return a number as a float; ``TypeError`` for anything that is none."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{argument} must be a number, not {described(value)}") from error


def seconds(argument: str, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is None or a positive number of seconds."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise ValueError(
            f"{argument} must be a positive number of seconds, or None, not {described(value)}"
        )


def items(argument: str, value: Iterable[Any], must: str, hint: str = "") -> list[Any]:
    """Return the items of a list, tuple or other sequence; ``TypeError`` for anything else.

    Text, mappings and tensors can be iterated over too, and are never meant.
    """
    if not isinstance(value, (Sequence, nn.ModuleList, nn.Sequential)) or isinstance(
        value, (str, bytes)
    ):
        raise TypeError(f"{argument} must be {must}, not {described(value)}{hint}")
    return list(value)


def names(argument: str, value: Iterable[Any]) -> list[str]:
    """Return a list of names; ``TypeError`` for anything else, one text above all."""
    hint = f"; pass {argument}=[{value!r}]" if isinstance(value, str) else ""
    given = items(argument, value, "a list of names", hint)
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be a list of names, but holds {described(name)}")
    return given


def device_of(argument: str, value: Any) -> torch.device:
    """Return a device with its number; ``ValueError`` or ``TypeError`` if there is no such one."""
    instance(argument, value, (torch.device, str, int), "a torch.device, its text or its number")
    try:
        return torch.empty(0, device=value).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{argument} {value!r} cannot be used: {reason}") from error
