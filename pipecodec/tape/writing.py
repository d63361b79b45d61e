"""Tells from its name whether a torch function writes into its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["written_by"]

_NORMS = {"batch_norm", "instance_norm", "native_batch_norm"}
"""Functions that write into their running statistics, and count no version of them."""


def written_by(function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return the arguments into which ``function(*args, **kwargs)`` writes, or None."""
    if kwargs.get("out") is not None:
        return kwargs["out"]
    name = str(getattr(function, "__name__", ""))
    if name in _NORMS:
        return _running(function, args, kwargs)
    in_place = name.endswith("_") and not name.endswith("__")
    operation = name[:3] == "__i" and name not in ("__invert__", "__int__", "__index__")
    writes = in_place or operation or name in ("__setitem__", "__set__")
    return args[:1] if writes else None


def _running(function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return the running statistics of a batch norm or an instance norm, if it updates them."""
    functional = getattr(function, "__module__", None) == "torch.nn.functional"
    flag = "use_input_stats" if function.__name__ == "instance_norm" else "training"
    on = args[5] if len(args) > 5 else kwargs.get(flag, flag == "use_input_stats")
    first = 1 if functional else 3
    named = [kwargs.get("running_mean"), kwargs.get("running_var")]
    return [*args[first : first + 2], *named] if on else None
