"""Compares two tapes of one model, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .arguments import Argument, Const, Node, Training, Value
from .structure import open_up
from .tape import Fact, Step, Tape

__all__ = ["Difference", "equal", "merge"]


@dataclass(frozen=True)
class Difference:
    """The first difference of two tapes.

    ``told`` says whether Python was told another thing before: a guard tells the batches apart. If
    not, the code decided on something that no tape can hold, such as ``range`` over a size.
    """

    text: str
    place: str
    methods: tuple[str, ...]
    told: bool
    item: bool = False
    """Whether the guard took a number out of a tensor."""


def merge(one: Tape, other: Tape) -> Difference | None:
    """Return the first difference of two tapes, or make `one` good for both and return None.

    Constants that are True in training and False in evaluation become the stage's mode.
    """
    match = _Match(one, other)
    arguments = []
    for a, b in zip(one.steps, other.steps, strict=False):
        difference = match.steps(a, b)
        if difference is not None:
            return difference
        arguments.append(match.arguments)
    if len(one.steps) != len(other.steps):
        longer = max((one, other), key=lambda tape: len(tape.steps))
        step = longer.steps[min(len(one.steps), len(other.steps))]
        text = f"{step.place} calls {step.label} in one observation only"
        return Difference(text, step.place, step.methods, False)
    found: list[str] = []
    result = match.templates(one.result, other.result, found)
    if found:
        return Difference(f"the result has {found[0]}", "the result", (), False)
    for step, args in zip(one.steps, arguments, strict=True):
        if isinstance(args, Node):
            step.args = args
    one.result = result
    if one.training != other.training:
        one.training = None
    match.join()
    return None


class _Match:
    """Two tapes, and which values of them are the same one."""

    def __init__(self, one: Tape, other: Tape) -> None:
        self.one, self.other = one, other
        self.used = one.used, other.used
        self.keys: dict[int, int | None] = {
            key: one.inputs.get(name) for name, key in other.inputs.items()
        }
        self.arguments: Argument = Const(None)

    def steps(self, a: Step, b: Step) -> Difference | None:
        """Return how two steps differ, and match the values that they give."""
        if a.target != b.target:
            text = f"calls {a.label} in one observation and {b.label} ({b.place}) in another"
            return Difference(f"{a.place} {text}", a.place, a.methods, False)
        found: list[str] = []
        self.arguments = self.templates(a.args, b.args, found)
        if found:
            text = f"{a.place} calls {a.label} with {found[0]}"
            return Difference(text, a.place, a.methods, False)
        if not equal(a.expect, b.expect):
            text = f"{a.place}: Python got {_said(a)} and {_said(b)} of {a.label}"
            return Difference(text, a.place, a.methods, True, a.label == "item")
        lengths = a.guarded_lengths(self.used[0]), b.guarded_lengths(self.used[1])
        if lengths[0] != lengths[1]:
            text = f"{a.place}: {a.label} gives {lengths[0]} and {lengths[1]} values"
            return Difference(text, a.place, a.methods, True)
        if a.ambient != b.ambient:
            text = f"{a.place} calls {a.label} in another gradient or autocast mode"
            return Difference(text, a.place, a.methods, False)
        mine = {(out.where, out.path): out.key for out in a.outs}
        self.keys.update({out.key: mine.get((out.where, out.path)) for out in b.outs})
        return None

    def join(self) -> None:
        """Let the first tape know all that was observed for the second."""
        for a, b in zip(self.one.steps, self.other.steps, strict=True):
            a.pure = a.pure and b.pure
            hollow = {self.keys.get(key) for key in b.hollow}
            a.hollow = tuple(key for key in a.hollow if key in hollow)
            writes = [key for key in map(self.keys.get, b.writes) if key is not None]
            a.writes_gradient = a.writes_gradient or b.writes_gradient
            a.writes = tuple(dict.fromkeys([*a.writes, *writes]))
            a.writes_held = tuple(dict.fromkeys((*a.writes_held, *b.writes_held)))
        for name, leaves in self.other.keepers.items():
            known = self.one.keepers.get(name, ())
            self.one.keepers[name] = tuple(dict.fromkeys((*known, *leaves)))
        for theirs, key in self.keys.items():
            fact = self.other.facts[theirs]
            mine = None if key is None else self.one.facts[key]
            if key is not None and isinstance(fact, Fact) and isinstance(mine, Fact):
                grad = mine.requires_grad or fact.requires_grad
                self.one.facts[key] = mine._replace(requires_grad=grad)
            elif key is not None and (theirs in self.other.varied or not equal(mine, fact)):
                self.one.varied.add(key)
        self._find_same_sizes()

    def _find_same_sizes(self) -> None:
        """Note each size that changed as one size of an input did."""
        one, other = self.one, self.other
        dimensions: dict[tuple[int, int], tuple[int, int]] = {}
        for name, source in one.inputs.items():
            a, b = one.facts[source], other.facts[other.inputs[name]]
            if isinstance(a, Fact) and isinstance(b, Fact):
                for i, pair in enumerate(zip(a.shape, b.shape, strict=True)):
                    if pair[0] != pair[1]:
                        dimensions.setdefault(pair, (source, i))
        for theirs, key in self.keys.items():
            if key is not None and one.names[key] == "size":
                found = dimensions.get((one.facts[key], other.facts[theirs]))
                if found is not None:
                    one.same_size.setdefault(key, found)

    def templates(self, a: Argument, b: Argument, found: list[str], path: str = "") -> Argument:
        """Return a template that is good for both, or note in `found` how they differ."""
        one, other = self.one, self.other
        if isinstance(a, Node) and isinstance(b, Node) and len(a.children) == len(b.children):
            if a.kind == b.kind and a.keys == b.keys:
                pairs = enumerate(zip(a.children, b.children, strict=True))
                children = [self.templates(x, y, found, f"{path}[{i}]") for i, (x, y) in pairs]
                return Node(a.rebuild, children, a.kind, a.keys, a.source)
        elif isinstance(a, Const) and isinstance(b, Const):
            if a.value is True and b.value is False and one.training and other.training is False:
                return Training()
            if type(a.value) is type(b.value) and equal(a.value, b.value):
                return a
        elif isinstance(a, Training) and isinstance(b, Const):
            if b.value is other.training:
                return a
        elif isinstance(a, Value) and isinstance(b, Value):
            if self.keys.get(b.key) == a.key:
                return a
        elif not isinstance(a, Node) and a == b:
            return a
        where = f" at {path}" if path else ""
        found.append(f"{_short(a)} in one observation and {_short(b)} in another{where}")
        return a


def equal(one: Any, other: Any) -> bool:
    """Whether two constants are one for Python: objects without a comparison of their own, too."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return (
            isinstance(one, torch.Tensor)
            and isinstance(other, torch.Tensor)
            and (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, float) and one != one:
        return bool(other != other)
    parts, others = open_up(one), open_up(other)
    if parts is not None and others is not None:
        return list(parts.keys) == list(others.keys) and all(
            map(equal, parts.children, others.children)
        )
    if getattr(type(one), "__eq__", None) is object.__eq__:
        return _alike(one, other)
    return bool(one == other)


def _alike(one: Any, other: Any) -> bool:
    """Compare two objects without ``__eq__``: made anew in each run, alike in all they hold."""
    code = getattr(one, "__code__", None)
    if code is not None:
        closures = (
            getattr(one, "__closure__", None) or (),
            getattr(other, "__closure__", None) or (),
        )
        contents = [[cell.cell_contents for cell in closure] for closure in closures]
        return code is getattr(other, "__code__", None) and equal(*contents)
    return hasattr(one, "__dict__") and equal(dict(vars(one)), dict(vars(other)))


def _said(step: Step) -> str:
    return "nothing" if step.expect is None else repr(step.expect[0])[:60]


def _short(template: Argument) -> str:
    match template:
        case Const(value):
            return repr(value)[:60]
        case Node():
            return (
                f"a {template.kind.__name__ if template.kind else 'container'} of "
                f"{len(template.children)}"
            )
        case _:
            return str(template)
