"""The origin's algorithm with one change: its text becomes a tensor in the cheapest way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.contenders import origin

__all__ = ["NAME", "NOTE", "make"]

NAME = "origin, frombuffer"
NOTE = "The origin with torch.frombuffer where it had a ByteStorage. Leaves out: as the origin."


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch

    return origin.make_with(lambda text: torch.frombuffer(bytearray(text), dtype=torch.uint8))
