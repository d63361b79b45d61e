"""The arguments of a recorded call, with numbered values in place of tensors and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Argument", "Const", "Device", "Held", "Node", "Sub", "Training", "Value"]


@dataclass(frozen=True)
class Value:
    """A value that an earlier step made, or an input."""

    key: int


@dataclass(frozen=True)
class Held:
    """A parameter, a buffer or another tensor that the model holds under this name."""

    name: str


@dataclass(frozen=True)
class Sub:
    """A module of the model that is an argument."""

    name: str


@dataclass(frozen=True)
class Const:
    """Anything that is the same in every run."""

    value: Any


@dataclass(frozen=True)
class Device:
    """The device that the model was observed on; in a stage, the stage's own."""


@dataclass(frozen=True)
class Training:
    """A constant that is True in training and False in evaluation."""


@dataclass
class Node:
    """A container that is built anew for each call.

    ``source`` is the mutable object that was opened: it is a constant if no tensor is ever in it.
    """

    rebuild: Callable[[list[Any]], Any]
    children: list[Argument]
    kind: type | None = None
    keys: tuple[Any, ...] = ()
    source: Any = None


Argument = Value | Held | Sub | Const | Device | Training | Node


def parts_of(template: Argument) -> Iterator[Argument]:
    """Yield all templates that are no containers, in order."""
    if isinstance(template, Node):
        for child in template.children:
            yield from parts_of(child)
    else:
        yield template


def keys_of(template: Argument) -> list[int]:
    """Return the values that a template takes, in order, once for each use."""
    return [part.key for part in parts_of(template) if isinstance(part, Value)]


def modules_of(template: Argument) -> list[str]:
    """Return the names of the modules that are arguments."""
    return [part.name for part in parts_of(template) if isinstance(part, Sub)]


def tensors_of(template: Argument) -> list[str]:
    """Return the names of the model's tensors that are arguments."""
    return [part.name for part in parts_of(template) if isinstance(part, Held)]
