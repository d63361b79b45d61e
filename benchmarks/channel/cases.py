"""The values that are sent, each a dict with a tensor "hidden"; ``of(i)`` is the i-th of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CASES", "Case"]

LARGE = 1 << 24
"""Elements of float32: 64 MiB."""


@dataclass(frozen=True)
class Case:
    """``messages`` go each way in a round."""

    name: str
    of: Callable[[int], dict[str, Any]]
    messages: int


def nested(i: int) -> dict[str, Any]:
    """One structure; numbers and tensors change."""
    return {
        "hidden": torch.full((4, 16), float(i)),
        "positions": (torch.arange(4) + i, torch.arange(4)),
        "cache": [{"key": torch.ones(2, 8), "value": torch.ones(2, 8)} for _ in range(2)],
        "step": i,
        "scale": 0.5 * i,
        "kind": "decode",
        "mask": None,
    }


def nested_changing(i: int) -> dict[str, Any]:
    """Another structure in each message."""
    value = nested(i)
    value["cache"] = value["cache"] * (1 + i % 3)
    return {**value, f"request {i}": {"of": f"user {i}", "tokens": list(range(i % 7))}}


def tensors(i: int) -> dict[str, Any]:
    """A flat dict of small tensors, which every contender can carry."""
    return {"hidden": torch.full((4, 16), float(i)), **{f"t{k}": torch.ones(64) for k in range(7)}}


_large: dict[int, torch.Tensor] = {}


def large(i: int) -> dict[str, Any]:
    """64 MiB in one tensor."""
    if LARGE not in _large:
        _large[LARGE] = torch.arange(LARGE, dtype=torch.float32)
    return {"hidden": _large[LARGE]}


def large_changing(i: int) -> dict[str, Any]:
    """64 MiB in one to four tensors, with other names in each message."""
    parts = large(i)["hidden"].chunk(1 + i % 4)
    return {"hidden": parts[0], **{f"part {i} {k}": part for k, part in enumerate(parts[1:])}}


CASES = (
    Case("small nested", nested, 50),
    Case("small nested, structure changes", nested_changing, 50),
    Case("8 small tensors", tensors, 50),
    Case("64 MiB", large, 1),
    Case("64 MiB, structure changes", large_changing, 1),
)
