"""Trainings whose last stage takes labels and weights, and other stages that do too or change them.

Each kind of stages is run as it is, one after the other, by the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipecodec import partition_modules
from pipecodec.demo.crossing import Crossing, watch
from pipecodec.engine.stage_module import StageModule

from .engines import Grid, engine_for
from .training import Training, names_here

__all__ = ["INPUTS", "KINDS", "Case"]

WIDTH, CLASSES = 8, 3
INPUTS = ["x", "labels", "weights"]


class Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(x).tanh()}


class EmbedLabels(Embed):
    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(x + labels[:, None]).tanh()}


class Writes(Embed):
    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Any]:
        labels.add_(1).remainder_(CLASSES)
        return {"hidden": self.linear(x).tanh()}


class WritesInside(Embed):
    def forward(self, x: Tensor, weights: dict[str, Any]) -> dict[str, Any]:
        weights["each"] = weights["each"] * 2
        return {"hidden": self.linear(x).tanh()}


class Replaces(Embed):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(x).tanh(), "labels": x.argmax(1) % CLASSES}


class PassesOn(Embed):
    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(x).tanh(), "again": [labels]}


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> dict[str, Any]:
        return {"hidden": hidden + self.linear(hidden).tanh()}


class Weighted(Body):
    def forward(self, hidden: Tensor, weights: dict[str, Any]) -> dict[str, Any]:
        return {"hidden": hidden + self.linear(hidden).tanh() * weights["each"][:, None]}


class WeightedWrites(Body):
    def forward(self, hidden: Tensor, weights: dict[str, Any]) -> dict[str, Any]:
        weights["each"].mul_(0.5)
        return {"hidden": hidden + self.linear(hidden).tanh() * weights["each"][:, None]}


class BodyReplaces(Body):
    def forward(self, hidden: Tensor) -> dict[str, Any]:
        return {**super().forward(hidden), "labels": hidden.argmin(1) % CLASSES}


class Scored(nn.Module):
    """Returns its loss, weighted by values that are no tensors too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(
        self, hidden: Tensor, labels: Tensor | None = None, weights: Any = None
    ) -> dict[str, Any]:
        logits = self.linear(hidden)
        if labels is None:
            return {"loss": None, "logits": logits}
        labels.add_(1).remainder_(CLASSES)  # once for each forward, whatever memory they lie in
        each = nn.functional.cross_entropy(logits, labels, reduction="none") * weights["each"]
        assert weights["note"] is None
        return {"loss": each.mean() * weights["scale"], "logits": logits}


class ScoredTwice(Scored):
    """Writes into one of two values that are one tensor."""

    def forward(
        self, hidden: Tensor, labels: Tensor, weights: Any, again: list[Tensor]
    ) -> dict[str, Any]:
        again[0].add_(1).remainder_(CLASSES)
        return super().forward(hidden, labels, weights)


@dataclass(frozen=True)
class Kind:
    """Classes of the stages.

    ``declared`` tells whether their outputs are declared. ``crossing`` holds the tensors, beside
    "hidden", that cross each of two boundaries.
    """

    first: type[Embed] = Embed
    middle: type[Body] = Body
    last: type[Scored] = Scored
    declared: bool = True
    crossing: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


KINDS = {
    "only the last": Kind(),
    "only the last, undeclared": Kind(declared=False),
    "first too": Kind(
        first=EmbedLabels,
    ),
    "middle too": Kind(middle=Weighted, crossing=(("weights['each']",), ())),
    "first writes": Kind(first=Writes, crossing=(("labels@batch",), ("labels@batch",))),
    "first passes on": Kind(
        first=PassesOn,
        last=ScoredTwice,
        crossing=(("again[0]",), ("again[0]",)),
    ),
    "first writes into a dict": Kind(
        first=WritesInside,
        crossing=(("weights@batch['each']",), ("weights@batch['each']",)),
    ),
    "middle writes": Kind(
        middle=WeightedWrites,
        crossing=(("weights['each']",), ("weights@batch['each']",)),
    ),
    "first replaces": Kind(
        first=Replaces,
        declared=False,
        crossing=(("labels@batch",), ("labels@batch",)),
    ),
    "middle replaces": Kind(middle=BodyReplaces, declared=False, crossing=((), ("labels@batch",))),
}


@dataclass
class Case(Training):
    kind: str
    grid: Grid
    checkpointed: bool = False
    pairs: bool = False
    """Whether batches are pairs (inputs, labels) on the engine."""
    evaluate: frozenset[int] = frozenset({0, 2})
    seen: Crossing = field(default_factory=Crossing)

    def build(self) -> nn.Module:
        torch.manual_seed(5)
        kind = KINDS[self.kind]
        middle = [kind.middle() for _ in range(self.grid.stages - 2)]
        return nn.ModuleList([kind.first(), *middle, kind.last()])

    def batches(self, step: int, replica: int, *, evaluate: bool = False) -> Iterator[Any]:
        for index in range(self.accumulate):
            random = torch.Generator().manual_seed(1000 * step + 10 * index + replica)
            rows = 3 if evaluate else 4
            yield {
                "x": torch.randn(rows, WIDTH, generator=random),
                "labels": torch.randint(CLASSES, (rows,), generator=random),
                "weights": {
                    "each": torch.rand(rows, generator=random),
                    "scale": 1.0 + index,
                    "note": None,
                },
            }

    def loss_fn(self, output: Any, labels: Any) -> Tensor:
        loss: Tensor = output["loss"]
        return loss

    def engine(self, model: Any) -> tuple[Any, dict[nn.Parameter, str]]:
        outputs = [list(stage(**self._example(stage))) for stage in model[:-1]]
        engine = engine_for(
            partition_modules(
                list(model), INPUTS, [*outputs, None] if KINDS[self.kind].declared else None
            ),
            self.grid,
            loss_fn=None,
            config={"pipeline": {"activation_checkpoint_interval": int(self.checkpointed)}},
        )
        stage = next(m for m in engine.module.modules() if isinstance(m, StageModule))
        self.seen = watch(stage)
        return engine, names_here(engine, model)

    def train_batch(self, engine: Any, batches: Any, trained: Any) -> None:
        if self.pairs:
            batches = (((b["x"], b["labels"], b["weights"]), None) for b in batches)
        super().train_batch(engine, batches, trained)

    def _example(self, stage: nn.Module) -> dict[str, Any]:
        import inspect

        batch = next(self.batches(0, 0))
        batch["hidden"] = batch["x"]
        return {name: batch[name] for name in inspect.signature(stage.forward).parameters}
