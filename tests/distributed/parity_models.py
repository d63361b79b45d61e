"""The stages that the parity table trains, and its batches.

A chain First, Middle..., Last, whose parameters have sizes that no partition divides evenly. The
batch says which layers a micro-batch uses, so that both trainings use the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sharded import ShardedLayer

__all__ = ["EVALUATE", "INPUTS", "KINDS", "SHARDED", "STEPS", "batches", "build", "loss_fn"]

STEPS, EVALUATE = 5, 2
"""How many steps a cell trains, and before which of them it evaluates."""

WIDTH, BATCH = 7, 4

INPUTS = ["x", "use", "late", "expert", "boost"]
"""Inputs of the first stage; the later stages get the last four from it."""

KINDS = (
    "all used",
    "unused value",
    "frozen stage",
    "groups by decay",
    "other layers per replica",
)

SHARDED = "weights sharded over 2 tensor-parallel ranks"

_OVERFLOW_STEP, _OVERFLOW = 2, 1e6


class Layer(nn.Module):
    """A layer with experts beside it, of which a micro-batch uses one or none."""

    def __init__(self, kind: str, width: int, norm: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.linear: nn.Module
        if kind == SHARDED:
            self.linear = ShardedLayer(WIDTH, width)
        else:
            self.linear = nn.Linear(WIDTH, width, bias=bias)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        count = 2 if kind == "other layers per replica" else 0
        self.experts = nn.ModuleList(nn.Linear(WIDTH, width, bias=bias) for _ in range(count))
        self.never = nn.Linear(3, 5, bias=bias) if kind == "unused value" else None

    def forward(self, x: Tensor, expert: int | None) -> Tensor:
        mixed = self.linear(x)
        if self.experts and expert is not None:
            mixed = mixed + self.experts[expert](x)
        normed: Tensor = self.norm(mixed)
        return normed


class First(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = Layer(kind, WIDTH)
        self.side, self.late = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.amplifies = kind != "frozen stage"

    def forward(self, x: Tensor, expert: int | None, boost: float) -> dict[str, Tensor]:
        x = x.to(self.side.weight.dtype)
        hidden = torch.tanh(self.layer(x, expert))
        return {
            "hidden": _amplified(hidden, boost) if self.amplifies else hidden,
            "side_value": self.side(x),
            "late_value": self.late(hidden.detach()),
        }


class Middle(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = Layer(kind, WIDTH)

    def forward(self, hidden: Tensor, expert: int | None) -> dict[str, Tensor]:
        return {"hidden": torch.tanh(self.layer(hidden, expert)) + hidden}


class Last(nn.Module):
    """A stage of matrices alone where the kind wants one that lacks a group."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        whole = kind != "groups by decay"
        self.layer = Layer(kind, 5, norm=False, bias=whole)
        self.amplifies = kind == "frozen stage"

    def forward(
        self,
        hidden: Tensor,
        side_value: Tensor,
        late_value: Tensor,
        use: bool,
        late: bool,
        expert: int | None,
        boost: float,
    ) -> Tensor:
        if use:
            hidden = hidden + side_value
        if late:
            hidden = hidden * torch.tanh(late_value)
        out = self.layer(hidden, expert)
        return _amplified(out, boost) if self.amplifies else out


def _amplified(value: Tensor, boost: float) -> Tensor:
    """Multiply the gradient of ``value``, in fp32, so that it overflows in half precision."""
    if boost == 1.0:
        return value
    wide = value.float()
    return (wide * boost - wide.detach() * (boost - 1.0)).to(value.dtype)


def build(kind: str, stages: int) -> nn.ModuleList:
    """Return the stages' modules, with the same weights in every process."""
    torch.manual_seed(11)
    model = nn.ModuleList([First(kind), *(Middle(kind) for _ in range(stages - 2)), Last(kind)])
    if kind == "frozen stage":
        model[0 if stages == 2 else 1].requires_grad_(False)
    return model


def loss_fn(output: Tensor, target: Tensor) -> Tensor:
    """Compute the loss in fp32, as a loss scale of half precision needs it."""
    return F.cross_entropy(output.float(), target)


def batches(
    kind: str,
    step: int,
    replica: int,
    accumulate: int,
    *,
    evaluate: bool = False,
    overflow: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield a step's micro-batches for one replica."""
    for index in range(accumulate):
        seed = 1000 * step + 100 * replica + index + 50 * evaluate
        random = torch.Generator().manual_seed(seed)
        use, late = (True, True) if kind != "unused value" else _uses(step, replica, index)
        boosted = overflow and (step, replica, index) == (_OVERFLOW_STEP, 0, accumulate - 1)
        yield {
            "x": torch.randn(BATCH, WIDTH, generator=random),
            "labels": torch.randint(0, 5, (BATCH,), generator=random),
            "use": use,
            "late": late,
            "expert": _expert(step, replica, index),
            "boost": _OVERFLOW if boosted and not evaluate else 1.0,
        }


def _uses(step: int, replica: int, index: int) -> tuple[bool, bool]:
    """Say whether a micro-batch uses the first stage's two values beside the hidden state.

    One is used by all, by none, by one micro-batch, by one replica, by none; the other never
    before the third step.
    """
    use = (True, False, index == 1, replica == 0 and index == 0, False)[step]
    late = (False, False, True, False, index == 0)[step]
    return use, late


def _expert(step: int, replica: int, index: int) -> int | None:
    """Choose a micro-batch's expert: both the same, one each, swapped, one replica any, mixed."""
    if step == 3:
        return 1 if replica == 0 else None
    if step == 4:
        return replica if index == 0 else None
    return (0, replica, 1 - replica)[step]
