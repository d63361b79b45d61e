"""The gradient that the engine received is the leaf's own, and the engine takes another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import values

STEPS, ACCUMULATE, SIZE = 3, 4, 16


class Given(nn.Module):
    """Gives its parameter as it is, whose ``.grad`` then is the gradient that arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(float(SIZE)).reshape(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.view(-1)


class Passed(nn.Module):
    """Adds a parameter, which gets the same gradient as its input does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.weight


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output * target).sum()


def micro_batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
    for index in range(ACCUMULATE):
        yield torch.ones(1, 1), torch.arange(float(SIZE)) + 7 * step + index


def trained(rank: Rank, checkpoint: int) -> tuple[list[list[float]], list[bool]]:
    """Return this stage's weight after each step, and whether each gradient was taken."""
    engine = engine_for(
        [Given(), Passed(), Last()],
        Grid(3),
        inputs=["x"],
        loss_fn=loss_of,
        config={
            "gradient_accumulation_steps": ACCUMULATE,
            "pipeline": {"activation_checkpoint_interval": checkpoint},
        },
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=2.0**-10),
    )
    (stage,) = engine.module.forward_funcs
    taken: list[bool] = []
    if rank.rank < 2:
        take = stage.outgoing.donate_gradient

        def noted(gradient: Tensor) -> Any:
            taken.append(take(gradient))
            return taken[-1]

        stage.outgoing.donate_gradient = noted
    weights = []
    for step in range(STEPS):
        engine.train_batch(micro_batches(step))
        weights.append(stage.mod.weight.flatten().tolist())
    return weights, taken


@pytest.mark.parametrize("checkpoint", [0, 1])
def test_it_is_not_copied_and_not_written_to(checkpoint: int) -> None:
    """Sums of powers of two, so that they are exact in any order."""
    stages = [Given(), Passed(), Last()]
    optimizer = torch.optim.SGD([p for s in stages for p in s.parameters()], lr=2.0**-10)
    results = values(trained, 3, checkpoint)
    for step in range(STEPS):
        for x, target in micro_batches(step):
            output = stages[2](stages[1](stages[0](x)))
            (loss_of(output, target) / ACCUMULATE).backward()
        optimizer.step()
        optimizer.zero_grad()
        for stage, (weights, _) in zip(stages, results, strict=True):
            assert weights[step] == stage.weight.flatten().tolist()
    assert [taken for _, taken in results] == [[True] * STEPS * ACCUMULATE] * 2 + [[]]
