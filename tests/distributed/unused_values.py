"""Stages whose values the last one uses or not, by micro-batch, and their trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .engines import Grid, engine_for

__all__ = ["CASES", "Case", "engine_of", "loss_of", "micro_batches"]

WIDTH, BATCH = 8, 4


class Doubled(torch.autograd.Function):
    """Would run with zeros, and so give zeros, where it is reached with no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Unmoved(torch.autograd.Function):
    """Uses its input, and has no gradient for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


class First(nn.Module):
    """Gives values of which none, one or all are used; hooks count how often they are called."""

    def __init__(self, lone: bool) -> None:
        super().__init__()
        self.lone = lone
        self.linear, self.plain, self.own, self.kept = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.calls = 0
        if not lone:
            self.plain.weight.register_hook(self.called)
            self.plain.weight.register_post_accumulate_grad_hook(self.called)

    def called(self, gradient: Tensor) -> None:
        assert gradient is not None
        self.calls += 1

    def forward(self, x: Tensor, use: int) -> dict[str, Any]:
        hidden = torch.tanh(self.linear(x))
        if self.lone:
            return {"hidden": hidden}
        plain = self.plain(x)
        if plain.requires_grad:
            plain.register_hook(self.called)
        kept = checkpoint(self.kept, hidden, use_reentrant=True)
        same = {"kept": kept, "again": kept}
        return {"hidden": hidden, "side": (plain, Doubled.apply(self.own(x)).double(), same)}


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(hidden)}


class Last(nn.Module):
    """Uses the part of ``side`` that ``use`` selects; ignores the hidden state if negative."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, use: int, side: Any = None) -> Tensor:
        if use < 0:
            hidden = torch.ones_like(hidden)
        if use == 1:
            hidden = hidden + side[0]
        if use == 2:
            hidden = hidden + side[1].float() + side[2]["again"]
        if use == 3:
            hidden = Unmoved.apply(hidden)
        out: Tensor = self.linear(hidden)
        return out


@dataclass(frozen=True)
class Case:
    """``uses`` holds for each step and micro-batch the ``use`` of the last stage."""

    stages: int = 3
    uses: tuple[tuple[int, ...], ...] = ((0, 1, 0, 2), (0, 0, 0, 0), (-1, 3, -1, -1))
    lone: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[int, ...] = ()

    @property
    def grid(self) -> Grid:
        return Grid(self.stages, schedule=self.options.get("schedule", "1f1b"))

    def build(self) -> list[nn.Module]:
        torch.manual_seed(3)
        middles = [Middle() for _ in range(self.stages - 2)]
        stages: list[nn.Module] = [First(self.lone), *middles, Last()]
        for index in self.frozen:
            stages[index].requires_grad_(False)
        return stages


LONE = ((-1, 0, -1, -1), (-1, -1, -1, -1), (0, 0, 0, -1))
CHECKPOINTED = {"activation_checkpoint_interval": 1}

CASES = {
    "2 stages": Case(2),
    "3 stages": Case(),
    "4 stages": Case(4),
    "one micro-batch": Case(2, ((2,), (0,), (1,))),
    "frozen in the middle": Case(frozen=(1,)),
    "lone leaf": Case(3, LONE, True),
    "lone leaf, dynamic": Case(3, LONE, True, {"dynamic_shape": True}),
    "dynamic": Case(options={"dynamic_shape": True}),
    "by dtype": Case(options={"differentiable": "by-dtype"}, frozen=(1,)),
    "reentrant": Case(pipeline=CHECKPOINTED),
    "lone leaf, reentrant": Case(3, LONE, True, pipeline=CHECKPOINTED),
    "dynamic, reentrant": Case(options={"dynamic_shape": True}, pipeline=CHECKPOINTED),
    "non-reentrant": Case(pipeline={**CHECKPOINTED, "use_reentrant": False}),
    "lone leaf, non-reentrant": Case(
        3, LONE, True, pipeline={**CHECKPOINTED, "use_reentrant": False}
    ),
    "V": Case(4, options={"schedule": "dualpipev"}),
    "lone leaf, V": Case(4, LONE, True, {"schedule": "dualpipev"}),
}


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def micro_batches(case: Case, step: int) -> Iterator[Any]:
    for index, use in enumerate(case.uses[step]):
        random = torch.Generator().manual_seed(100 * step + index)
        x, target = torch.randn(2, BATCH, WIDTH, generator=random)
        yield (x, use), target


def engine_of(case: Case, stages: list[nn.Module]) -> Any:
    """Return this rank's engine for ``stages``."""
    return engine_for(
        stages,
        case.grid,
        inputs=["x", "use"],
        loss_fn=loss_of,
        config={
            "gradient_accumulation_steps": len(case.uses[0]),
            "pipeline": case.pipeline,
        },
        **case.options,
    )
