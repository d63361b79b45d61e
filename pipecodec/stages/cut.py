"""How a partition was cut, for engines, reports and people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

__all__ = ["Crossing", "Cut"]


class Crossing(NamedTuple):
    """Describes an observed value that crosses; a number or a container has no dtype."""

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    nbytes: int
    requires_grad: bool


@dataclass(frozen=True)
class Cut:
    """Records the observations and decisions of ``partition``.

    ``split`` names the call with which each stage but the first begins ("model.layers.8", and
    "layers.0#1" for its second call). ``fingerprint`` is a checksum of all that was observed and
    cut: ranks whose fingerprints differ may not train together. ``observations`` counts the kinds
    of batch that have a way of their own; where there are several, ``alike`` tells whether tensors
    of the same names, dtypes and shapes cross for each. ``notes`` are sentences for the user.
    ``makers`` gives for each value that crosses its place in the model's code.
    ``crossing["send"]`` and ``crossing["recompute"]`` list
    for each boundary the values that cross it, by name; ``recomputed`` tells which was taken.
    ``dtype`` is that of the model's floating-point parameters, None if there are several.
    """

    split: list[str]
    fingerprint: str
    observations: int = 1
    alike: bool = True
    notes: list[str] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)
    crossing: dict[str, list[dict[str, Crossing]]] = field(default_factory=dict)
    recomputed: bool = False
    dtype: torch.dtype | None = None
