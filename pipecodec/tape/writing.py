"""Tells from its name whether a torch function writes into its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["written_by"]


def written_by(function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return the arguments into which ``function(*args, **kwargs)`` writes, or None."""
    if kwargs.get("out") is not None:
        return kwargs["out"]
    name = str(getattr(function, "__name__", ""))
    in_place = name.endswith("_") and not name.endswith("__")
    operation = name[:3] == "__i" and name not in ("__invert__", "__int__", "__index__")
    writes = in_place or operation or name in ("__setitem__", "__set__")
    return args[:1] if writes else None
