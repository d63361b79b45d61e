"""Compares two tapes of one model, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch

from .tape import Fact, Step, Tape
from .templates import Const, Node, Template, Training

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


def merge(one: Tape, other: Tape) -> Difference | None:
    """Return the first difference of two tapes, or make `one` good for both and return None.

    Constants that are True in training and False in evaluation become the stage's mode. Sizes that
    equal one input's size in both become that size (``same_size``).
    """
    arguments = []
    for a, b in zip(one.steps, other.steps, strict=False):
        if a.target != b.target:
            text = f"calls {a.label} in one observation and {b.label} ({b.place}) in another"
            return Difference(f"{a.place} {text}", a.place, a.methods, False)
        found: list[str] = []
        arguments.append(_compare(a.args, b.args, one, other, found))
        if found:
            text = f"{a.place} calls {a.label} with {found[0]}"
            return Difference(text, a.place, a.methods, False)
        if (
            (a.expect is None) != (b.expect is None)
            or a.expect
            and b.expect
            and not equal(a.expect[0], b.expect[0])
        ):
            text = f"{a.place}: Python got {_said(a)} and {_said(b)} of {a.label}"
            return Difference(text, a.place, a.methods, True)
        if (a.count, len(a.outs), a.ambient) != (b.count, len(b.outs), b.ambient):
            text = f"{a.place}: {a.label} gives {a.count or len(a.outs)} and "
            text += f"{b.count or len(b.outs)} values"
            return Difference(text, a.place, a.methods, a.count != b.count)
        if [(o.where, o.path, o.key) for o in a.outs] != [(o.where, o.path, o.key) for o in b.outs]:
            return Difference(f"{a.place}: {a.label} gives other values", a.place, a.methods, False)
    if len(one.steps) != len(other.steps):
        longer = max((one, other), key=lambda tape: len(tape.steps))
        step = longer.steps[min(len(one.steps), len(other.steps))]
        text = f"{step.place} calls {step.label} in one observation only"
        return Difference(text, step.place, step.methods, False)
    found = []
    result = _compare(one.result, other.result, one, other, found)
    if found:
        return Difference(f"the result has {found[0]}", "the result", (), False)
    _join(one, other, arguments, result)
    return None


def _join(one: Tape, other: Tape, arguments: list[Template], result: Template) -> None:
    for step, args in zip(one.steps, arguments, strict=True):
        if isinstance(args, Node):
            step.args = args
    one.result = result
    if one.training != other.training:
        one.training = None
    for a, b in zip(one.steps, other.steps, strict=True):
        a.pure, a.hollow = a.pure and b.pure, tuple(k for k in a.hollow if k in b.hollow)
        a.writes = tuple(dict.fromkeys((*a.writes, *b.writes)))
        a.writes_held = tuple(dict.fromkeys((*a.writes_held, *b.writes_held)))
    _find_same_sizes(one, other)
    for key, fact in other.facts.items():
        mine = one.facts[key]
        if isinstance(mine, Fact) and isinstance(fact, Fact) and fact.requires_grad:
            one.facts[key] = mine._replace(requires_grad=True)


def _find_same_sizes(one: Tape, other: Tape) -> None:
    """Note each size that changed as just one size of an input did."""
    dimensions: dict[tuple[int, int], tuple[int, int]] = {}
    for key in one.inputs.values():
        a, b = one.facts[key], other.facts.get(key)
        if isinstance(a, Fact) and isinstance(b, Fact) and len(a.shape) == len(b.shape):
            for i, pair in enumerate(zip(a.shape, b.shape, strict=True)):
                if pair[0] != pair[1]:
                    dimensions.setdefault(pair, (key, i))
    if not dimensions:
        return
    for key, size in one.facts.items():
        found = dimensions.get((size, other.facts.get(key)))  # type: ignore[arg-type]
        if one.names[key] == "size" and found is not None:
            one.same_size.setdefault(key, found)


def _compare(
    a: Template, b: Template, one: Tape, other: Tape, found: list[str], path: str = ""
) -> Template:
    if isinstance(a, Node) and isinstance(b, Node) and len(a.children) == len(b.children):
        if a.kind == b.kind and a.keys == b.keys:
            pairs = enumerate(zip(a.children, b.children, strict=True))
            children = [_compare(x, y, one, other, found, f"{path}[{i}]") for i, (x, y) in pairs]
            return Node(a.rebuild, children, a.kind, a.keys, a.source)
    elif isinstance(a, Const) and isinstance(b, Const):
        if a.value is True and b.value is False and one.training and other.training is False:
            return Training()
        if type(a.value) is type(b.value) and equal(a.value, b.value):
            return a
    elif isinstance(a, Training) and isinstance(b, Const):
        if b.value is other.training:
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
    if isinstance(one, numpy.ndarray):
        return one.dtype == other.dtype and numpy.array_equal(one, other, equal_nan=False)
    if isinstance(one, float) and one != one:
        return bool(other != other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if type(one).__eq__ is object.__eq__:
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
    if hasattr(one, "__dict__"):
        return equal(vars(one), vars(other))
    return False


def _said(step: Step) -> str:
    return "nothing" if step.expect is None else repr(step.expect[0])[:60]


def _short(template: Template) -> str:
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
