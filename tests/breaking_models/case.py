"""How a model that is made to break `partition` is written down, and the model most of them are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = [
    "CASES",
    "CHANCE",
    "COUNT",
    "CROSSES",
    "FIXED",
    "GRAPH_ENDS",
    "HIDDEN",
    "OTHER",
    "RIGHT",
    "SIZES",
    "TOO_FEW",
    "UNEQUAL",
    "UNKNOWN",
    "Base",
    "Case",
    "case",
    "floats",
]

RIGHT = "right"
FIXED = r"dimension 0 of the input 'x' \(fixed: .*\.py:\d+"
OTHER = r"when the model was observed, Python was told .*, and now"
COUNT = r"\.py:\d+: \w+ gave \d+ values when the model was observed, and gives \d+ now"
UNKNOWN = r"reaches \S*\.py:\d+ by a way that was not observed"
CHANCE = r"\.py:\d+ calls .*depends on chance"
TOO_FEW = r"the model calls \d layers between which it can be cut, too few for 3 stages"
UNEQUAL = "is not the model's to the last bit"
CROSSES = r"\.py:\d+ writes .*, whose memory crosses a cut"
GRAPH_ENDS = r"\.py:\d+ calls \w+ between the layers: the graph of a gradient ends at a cut"
HIDDEN = r"\.py:\d+: a (tensor|size) is hidden in a"
SIZES = {"size": FIXED, "one": FIXED}
WIDTH = 8
Inputs = Callable[[int, torch.Generator], dict[str, Any]]


def floats(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {"x": torch.randn(samples, WIDTH, generator=generator)}


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and the outcome for each kind of batch.

    ``refused`` is a pattern of the text with which `partition` refuses the model. ``later`` has
    such patterns for batches: "data" (other values), "size" (five samples) and "one" (one sample),
    if the partition refuses them, and "eval" for evaluation. All that is not named is right.
    """

    model: Callable[[], nn.Module]
    inputs: Inputs = floats
    refused: str | None = None
    later: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(
    inputs: Inputs = floats,
    refused: str | None = None,
    later: Mapping[str, str] | None = None,
    **options: Any,
) -> Callable[[Callable[[], nn.Module]], Any]:
    """Register a class, or a function that returns a model; `options` go to `partition`."""

    def register(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        name = model.__name__
        assert name not in CASES, name
        CASES[name] = Case(model, inputs, refused, later or {}, options or {"n_stages": 3})
        return model

    return register


class Base(nn.Module):
    """Four layers and a head, with glue after each layer."""

    layer: Callable[..., nn.Module] = nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(type(self).layer(WIDTH, WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, WIDTH)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = self._glue(layer(x))
        return self.head(x)
