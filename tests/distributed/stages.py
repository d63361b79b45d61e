"""The stages that the rows of the table train, and the class of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BATCH", "WIDTH", "First", "Row", "build"]

WIDTH, BATCH = 8, 4


@dataclass(frozen=True)
class Row:
    """One kind of value and how it is trained.

    ``give(first, x, ids)`` makes the value, ``take(hidden, value)`` uses it, a middle
    stage sends on ``change(value)`` instead of it. ``frozen`` names the stages without a trainable
    parameter: "first", "middle". ``options`` are for ``pipecodec.deepspeed.initialize``,
    ``config`` is merged into DeepSpeed's. ``evaluate`` holds the steps before which ``eval_batch``
    runs once; ``sizes`` are the batch sizes of successive micro-batches; those of evaluations
    are one smaller. ``bf16`` repeats a setting of ``config``.
    """

    give: Callable[[First, Tensor, Tensor], Any] = lambda first, x, ids: None
    take: Callable[[Tensor, Any], Tensor] = lambda hidden, value: hidden
    change: Callable[[Any], Any] | None = None
    bypass: bool = False
    frozen: tuple[str, ...] = ()
    adapters: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluate: frozenset[int] = frozenset()
    sizes: tuple[int, ...] = (BATCH,)
    bf16: bool = False


class Linear(nn.Linear):
    """A layer, with a low-rank adapter beside the frozen weight if asked for."""

    def __init__(self, width: int, adapter: bool) -> None:
        super().__init__(WIDTH, width)
        self.down = self.up = None
        if adapter:
            self.requires_grad_(False)
            self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.down is None else out + self.up(self.down(x))


class First(nn.Module):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.linear, self.extra = (Linear(WIDTH, row.adapters) for _ in range(2))
        self.calls = 0
        self.requires_grad_("first" not in row.frozen)

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, Any]:
        self.calls += 1
        x = x.to(self.linear.weight.dtype)
        return {"hidden": self.linear(x).tanh() * 2, "value": self.row.give(self, x, ids)}


class Middle(nn.Module):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.linear = Linear(WIDTH, row.adapters)
        self.requires_grad_("middle" not in row.frozen)

    def forward(self, hidden: Tensor, value: Any) -> dict[str, Any]:
        made = {"hidden": self.row.take(self.linear(hidden).tanh() + hidden, value)}
        return made if self.row.change is None else {**made, "value": self.row.change(value)}


class Bypassed(Middle):
    def forward(self, hidden: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(hidden).tanh() + hidden}


class Last(nn.Module):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.linear = nn.Linear(WIDTH, 3)

    def forward(self, hidden: Tensor, value: Any) -> Tensor:
        out: Tensor = self.linear(self.row.take(hidden, value))
        return out


def build(row: Row, stages: int) -> nn.ModuleList:
    """Return the stages' modules, with the same weights in every process."""
    torch.manual_seed(7)
    middle = Bypassed if row.bypass else Middle
    return nn.ModuleList([First(row), *(middle(row) for _ in range(stages - 2)), Last(row)])
