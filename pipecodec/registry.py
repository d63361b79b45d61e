"""Which class or function implements a part of a pipeline for a framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["get_dialect", "register_framework_dialect"]

_T = TypeVar("_T")
_dialects: dict[tuple[str, str], Any] = {}


def register_framework_dialect(framework: str, kind: str) -> Callable[[_T], _T]:
    """Return a decorator that registers its target as `framework`'s implementation of `kind`.

    Registering the same pair again replaces the earlier entry, so that a module may be reloaded.
    """

    def register(target: _T) -> _T:
        _dialects[framework, kind] = target
        return target

    return register


def get_dialect(framework: str, kind: str) -> Any:
    """Return the value registered for the pair, such as ``("deepspeed", "pipeline_stage")``.

    Raises ValueError, with a list of all registered pairs, if there is none.
    """
    try:
        return _dialects[framework, kind]
    except KeyError:
        known = ", ".join(f"{f}/{k}" for f, k in sorted(_dialects)) or "nothing"
        raise ValueError(
            f"no dialect {framework}/{kind} is registered; registered: {known}. "
            f"Import the module that registers it first (pipecodec.deepspeed for 'deepspeed')."
        ) from None
