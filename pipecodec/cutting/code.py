"""The source of a function that was written for a stage, with the objects that it names."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch

__all__ = ["Code"]

_numbers = count()
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, eq=False)
class Code:
    """The source of one function and the objects that it names; it can be pickled."""

    name: str
    source: str
    names: dict[str, Any]

    def __deepcopy__(self, memo: Any) -> Code:
        return self

    def __reduce__(self) -> Any:
        names = {k: _Method.of(value) for k, value in self.names.items()}
        return _unpickled, (self.name, self.source, names)

    def text(self) -> str:
        """Return the source with the objects that it names, without their addresses."""
        return "\n".join([self.source, *(f"{k} = {_stable(v)}" for k, v in self.names.items())])

    def function(self) -> Callable[..., Any]:
        """Return the function. A traceback shows its lines, each with its place in the model."""
        file = f"<pipecodec {self.name} {next(_numbers)}>"
        lines = self.source.splitlines(keepends=True)
        linecache.cache[file] = (len(self.source), None, lines, file)
        scope = dict(self.names)
        exec(compile(self.source, file, "exec"), scope)
        made: Callable[..., Any] = scope["run"]
        return made


class _Method(NamedTuple):
    """A method of Tensor by name: torch gives some of them a module in which they are not found."""

    name: str

    @staticmethod
    def of(value: Any) -> Any:
        if getattr(value, "__module__", None) != "torch._tensor":
            return value
        names = (name for name in dir(torch.Tensor) if getattr(torch.Tensor, name, None) is value)
        name = next(names, None)
        return value if name is None else _Method(name)


def _unpickled(name: str, source: str, names: dict[str, Any]) -> Code:
    found = {
        k: getattr(torch.Tensor, v.name) if type(v) is _Method else v for k, v in names.items()
    }
    return Code(name, source, found)


def _stable(value: Any) -> str:
    """Return a text that is the same in every process."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({sorted(map(_stable, value))})"
    return _ADDRESS.sub("", repr(value))
