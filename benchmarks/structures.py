"""The class of structures, and five synthetic ones: small boundaries, and two extremes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Structure", "synthetic"]


@dataclass(frozen=True)
class Structure:
    """One structure to send.

    ``vary(i)`` gives the same structure and the same tensors with a number in it that differs for
    every i; it is None where the structure holds no number.
    """

    name: str
    description: str
    value: Any
    vary: Callable[[int], Any] | None = None


def synthetic() -> list[Structure]:
    """Return S1 to S5; all tensors are distinct, small, and require no gradient."""
    return [_tensors_and_int(), _decoder(), _key_values(), _named(), _deep()]


def _tensor() -> torch.Tensor:
    return torch.ones(2, 3)


def _tensors_and_int() -> Structure:
    a, b, c = _tensor(), _tensor(), _tensor()
    return Structure("S1", "3 tensors + int", (a, b, c, 5), lambda i: (a, b, c, i))


def _decoder() -> Structure:
    a, b, pair = _tensor(), _tensor(), (_tensor(), _tensor())
    return Structure(
        "S2",
        "decoder boundary",
        (a, b, pair, None, 7, 0.5, True),
        lambda i: (a, b, pair, None, i, 0.5, True),
    )


def _key_values() -> Structure:
    pairs = tuple((_tensor(), _tensor()) for _ in range(24))
    return Structure("S3", "hidden + 24 (k, v)", (_tensor(), pairs, None))


def _named() -> Structure:
    tensors = {f"layer.{i}.hidden": _tensor() for i in range(64)}

    def vary(i: int) -> dict[str, Any]:
        return {**tensors, "scalars": {"step": i, "scale": 0.5, "train": True, "layers": 24}}

    return Structure("S4", "dict of 64 + scalars", vary(7), vary)


def _deep() -> Structure:
    value: list[Any] = [_tensor() for _ in range(968)]
    for _ in range(32):
        value = [_tensor(), value]
    return Structure("S5", "1,000 leaves, depth 32", value)
