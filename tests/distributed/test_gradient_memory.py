"""No memory that a gradient lies in is written to by anyone else while it can be reached.

Stages whose parameters take the gradient that arrives as it is, or a view of it, and hooks that
keep gradients, against one process in which each boundary copies its tensors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec import partition_modules
from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import values

BATCH, LENGTH, WIDTH = 2, 4, 8
STEPS = 3

Make = Callable[[nn.Parameter, Tensor], Tensor]

KINDS: dict[str, tuple[tuple[int, ...], Make]] = {
    "added": ((BATCH, LENGTH, WIDTH), lambda p, x: x.tanh() + p),
    "subtracted from": ((BATCH, LENGTH, WIDTH), lambda p, x: p - x),
    "addend of addmm": (
        (BATCH * LENGTH, WIDTH),
        lambda p, x: torch.addmm(p, x.flatten(0, 1), p[:WIDTH]).view_as(x),
    ),
    "addend of baddbmm": (
        (BATCH, LENGTH, WIDTH),
        lambda p, x: torch.baddbmm(p, x.tanh(), x.mT @ x),
    ),
    "prompts": (
        (BATCH, 2, WIDTH),
        lambda p, x: torch.cat([p, x[:, 2:].tanh() + x[:, :2]], dim=1),
    ),
    "queries": (
        (1, LENGTH, WIDTH),
        lambda p, x: p.expand(BATCH, LENGTH, WIDTH) + x.mean(1, keepdim=True),
    ),
    "given": ((BATCH * LENGTH * WIDTH,), lambda p, x: p.view_as(x)),
}


class Stage(nn.Module):
    """One kind of parameter, and hooks that keep every gradient of it and of the stage's output."""

    def __init__(self, kind: str, keeps: bool) -> None:
        super().__init__()
        shape, self.make = KINDS[kind]
        self.weight = nn.Parameter(torch.randn(shape) / 4)
        self.keeps, self.kept = keeps, list[Tensor]()
        self.weight.register_post_accumulate_grad_hook(self.keep_accumulated)
        if keeps:
            self.weight.register_hook(self.kept.append)

    def keep_accumulated(self, weight: Tensor) -> None:
        assert weight.grad is not None
        self.kept.append(weight.grad)

    def keep(self, gradient: Tensor | None) -> None:
        """Called with None where a later stage uses nothing of this one (docs/guarantees.md)."""
        if gradient is not None:
            self.kept.append(gradient)

    def forward(self, hidden: Tensor) -> Tensor:
        out = self.make(self.weight, hidden)
        if self.keeps and out.requires_grad:
            if hidden.requires_grad and self.make is not KINDS["given"][1]:
                hidden.register_hook(self.keep)
            out.register_hook(self.kept.append)
        return out


class Apart(torch.autograd.Function):
    """A boundary in one process: value and gradient are copies."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def micro_batches(accumulate: int, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    for index in range(accumulate):
        generator = torch.Generator().manual_seed(100 * step + index)
        x, y = torch.randn(2, BATCH, LENGTH, WIDTH, generator=generator)
        yield x, y


Plan = tuple[tuple[str, ...], int, bool, tuple[str, ...], dict[str, Any]]
"""Kinds of stages, accumulation, whether hooks keep, the actions before each step, options."""


def build(plan: Plan) -> list[Stage]:
    torch.manual_seed(5)
    return [Stage(kind, plan[2]) for kind in plan[0]]


def seen(stages: list[Stage]) -> list[list[list[float]]]:
    return [[kept.flatten().tolist() for kept in stage.kept] for stage in stages]


def alone(plan: Plan) -> list[list[list[float]]]:
    stages = build(plan)
    optimizer = torch.optim.SGD([s.weight for s in stages], lr=0.1, momentum=0.9)
    for step in range(STEPS):
        for x, y in micro_batches(plan[1], step):
            for stage in stages[:-1]:
                x = Apart.apply(stage(x))
            (loss_of(stages[-1](x), y) / plan[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return seen(stages)


def trained(rank: Rank, plans: list[Plan]) -> list[Any]:
    results = []
    for plan in plans:
        kinds, accumulate, _, before, options = plan
        stages = build(plan)
        v_shaped = options.get("schedule") == "dualpipev"
        engine = engine_for(
            partition_modules(stages, ["hidden"], ["hidden"] * (len(kinds) - 1) + [None]),
            Grid(len(kinds), schedule="dualpipev" if v_shaped else "1f1b"),
            loss_fn=loss_of,
            config={"gradient_accumulation_steps": accumulate},
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
            **options,
        )
        for step in range(STEPS):
            if before[step] == "evaluation":
                engine.eval_batch(micro_batches(accumulate, 50 + step))
            elif before[step] == "reset":
                engine.reset_activation_shape()
            engine.train_batch(micro_batches(accumulate, step))
        own = {rank.rank, len(kinds) - 1 - rank.rank} if v_shaped else {rank.rank}
        results.append(
            [seen([stages[stage]])[0] if stage in own else None for stage in range(len(kinds))]
        )
    return results


@pytest.mark.parametrize(("stages", "seed"), [(3, 1), (3, 4048565258), (4, 1)])
def test_gradients_that_are_kept_stay_as_they_are(stages: int, seed: int) -> None:
    chosen = random.Random(seed)
    plans: list[Plan] = []
    for index, accumulate in enumerate((1, 3, 8) if stages == 3 else (2, 5)):
        kinds = chosen.sample(sorted(KINDS), stages)
        before = tuple(chosen.choice(["nothing", "evaluation", "reset"]) for _ in range(STEPS))
        options = {"dynamic_shape": True} if chosen.random() < 0.3 else {}
        plans.append((tuple(kinds), accumulate, index == 2, before, options))
    if stages == 4:  # on two ranks, which takes as many micro-batches as there are stages
        kinds = chosen.sample(sorted(KINDS), stages)
        v_shaped: list[Plan] = [
            (
                tuple(kinds),
                accumulate,
                True,
                ("nothing", "evaluation", "reset"),
                {"schedule": "dualpipev"},
            )
            for accumulate in (4, 5)
        ]
        check(v_shaped, values(trained, 2, v_shaped))
    check(plans, values(trained, stages, plans))


def check(plans: list[Plan], per_rank: list[Any]) -> None:
    for index, plan in enumerate(plans):
        for stage, expected in enumerate(alone(plan)):
            (found,) = [own[index][stage] for own in per_rank if own[index][stage] is not None]
            assert found == expected, f"stage {stage} of {plan}"
