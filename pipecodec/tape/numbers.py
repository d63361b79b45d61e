"""Numbers that know where they come from, so that a tape holds for every size.

Python goes on with such a number as with any other. Arithmetic on it is recorded, and a comparison
or a conversion becomes a guard. ``range(n)`` and ``items[n]`` cannot be seen, since CPython asks a
subclass of int for nothing: a second observation at another size finds them (see ``compare``).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["TracedFloat", "TracedInt", "plain"]


class Records(Protocol):
    """Records arithmetic on numbers."""

    recording: bool

    def arithmetic(
        self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any, guard: bool
    ) -> Any:
        """Record that ``function(*operands)`` gave `result`; return the number to go on with."""


class TracedInt(int):
    """An int whose maker is a step of a tape."""

    recorder: Records
    key: int


class TracedFloat(float):
    """A float whose maker is a step of a tape."""

    recorder: Records
    key: int


def traced(value: int | float, recorder: Records, key: int) -> TracedInt | TracedFloat:
    """Return `value` as a number that knows its maker."""
    number = TracedFloat(value) if isinstance(value, float) else TracedInt(value)
    number.recorder, number.key = recorder, key
    return number


def plain(value: Any) -> Any:
    """Return an ordinary number for a traced one, and anything else as it is."""
    if isinstance(value, TracedInt):
        return int.__add__(value, 0)
    return float.__add__(value, 0.0) if isinstance(value, TracedFloat) else value


def _operator(function: Callable[..., Any], guard: bool, reflected: bool) -> Callable[..., Any]:
    def method(self: Any, *others: Any) -> Any:
        operands = (*others, self) if reflected else (self, *others)
        if not all(isinstance(operand, (int, float)) for operand in operands):
            if self.recorder.recording:  # a list times a size, a size and a string
                self.recorder.arithmetic(plain, (self,), plain(self), True)
            return NotImplemented
        result = function(*map(plain, operands))
        if not self.recorder.recording:
            return result
        return self.recorder.arithmetic(function, operands, result, guard)

    return method


def _conversion(original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        result = original(plain(self), *map(plain, args))
        if self.recorder.recording:
            self.recorder.arithmetic(original, (self, *args), result, True)
        return result

    return method


_ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow")
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_CONVERSIONS = (
    "int float round divmod rdivmod and or xor rand ror rxor lshift rshift rlshift rrshift trunc "
    "ceil floor invert str repr format"
).split()


def _overload(cls: type, base: type) -> None:
    for name in _ARITHMETIC:
        function = getattr(operator, name)
        setattr(cls, f"__{name}__", _operator(function, False, False))
        setattr(cls, f"__r{name}__", _operator(function, False, True))
    for name in ("neg", "abs"):
        setattr(cls, f"__{name}__", _operator(getattr(operator, name), False, False))
    for name in _COMPARISONS:
        setattr(cls, f"__{name}__", _operator(getattr(operator, name), True, False))
    cls.__bool__ = _operator(bool, True, False)  # type: ignore[attr-defined]
    cls.__hash__ = base.__hash__  # type: ignore[method-assign]
    for name in _CONVERSIONS:
        if hasattr(base, f"__{name}__"):
            setattr(cls, f"__{name}__", _conversion(getattr(base, f"__{name}__")))


_overload(TracedInt, int)
_overload(TracedFloat, float)
