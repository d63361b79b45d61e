"""A model whose stages fail where they are told to, on one rank or on several with two stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import ScheduleZBVZeroBubble

import pipecodec
from pipecodec import pipelining

from .faults import Here

__all__ = [
    "INPUTS",
    "LEFT_OUT",
    "Last",
    "LastWithoutIds",
    "Training",
    "counted",
    "fail",
    "mse",
    "partition",
    "stage_numbers",
    "trained",
]

WIDTH, SAMPLES = 4, 24
INPUTS = ["x", "ids", "scale"]

SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zbv": ScheduleZBVZeroBubble,
}


class Plant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, act: Callable[[], None]) -> Tensor:
        ctx.act = act
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.act()
        return gradient, None


def nothing() -> None:
    pass


def fail(*_: Any) -> None:
    raise ArithmeticError("planted")


class Middle(nn.Module):
    """Calls ``in_forward`` and ``in_backward``; ``change`` is applied to its result."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.in_forward = self.in_backward = nothing
        self.change: Callable[[Any], Any] = lambda x: x

    def forward(self, x: Tensor) -> Any:
        self.in_forward()
        return self.change(Plant.apply(self.linear(x).tanh(), lambda: self.in_backward()))


class Last(Middle):
    def forward(self, x: Tensor, ids: Tensor | None, scale: float) -> Any:
        x = super().forward(x) * scale
        return {"y": x, "ids": ids}


class LastWithoutIds(Middle):
    def forward(self, x: Tensor, scale: float) -> Any:
        return {"y": super().forward(x) * scale}


def partition(count: int, last: type[Middle] = Last) -> pipecodec.Partition:
    torch.manual_seed(0)
    stages = [*(Middle() for _ in range(count - 1)), last()]
    return pipecodec.partition_modules(stages, INPUTS, [*["x"] * (count - 1), None])


def stage_numbers(here: Here) -> list[int]:
    rank, world = here.rank, here.world
    if here.layout == "zbv":
        return [rank, 2 * world - 1 - rank]
    return [rank, rank + world] if here.layout == "interleaved" else [rank]


def mse(output: Any, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(output["y"], target)


class Training:
    """This rank's stages and schedule; ``options`` are those of ``build_stage``."""

    def __init__(
        self,
        here: Here,
        *,
        part: Any = None,
        numbers: Any = None,
        loss_fn: Any = mse,
        wrapped: bool = True,
        micro_batches: int = 0,
        schedule: Any = None,
        **options: Any,
    ) -> None:
        self.here = here
        per_rank = 2 if here.layout in ("zbv", "interleaved") else 1
        self.part = part or partition(per_rank * here.world)
        numbers = stage_numbers(here) if numbers is None else numbers
        self.stages = [pipelining.build_stage(self.part, k, **options) for k in numbers]
        self.first, self.last = 0 in numbers, len(self.part.stages) - 1 in numbers
        if wrapped and loss_fn is not None:
            loss_fn = pipelining.loss(loss_fn)
        cls = schedule or SCHEDULES[here.layout]
        self.schedule = cls(
            self.stages if per_rank == 2 else self.stages[0],
            micro_batches or 2 * here.world,
            loss_fn=loss_fn,
        )

    @property
    def modules(self) -> list[Any]:
        return [stage.submod for stage in self.stages]

    def batch(self, samples: int = SAMPLES) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model's inputs, and the target, where this rank needs them."""
        random = torch.Generator().manual_seed(1)
        x = torch.randn(samples, WIDTH, generator=random)
        inputs = {"x": x, "ids": torch.arange(samples), "scale": 0.5}
        return inputs if self.first else {}, {"target": -x} if self.last else {}

    def step(self, samples: int = SAMPLES, **changes: Any) -> Any:
        return self._call(self.schedule.step, samples, changes)

    def eval(self, samples: int = SAMPLES, **changes: Any) -> Any:
        with torch.no_grad():
            return self._call(self.schedule.eval, samples, changes)

    def _call(self, method: Any, samples: int, changes: dict[str, Any]) -> Any:
        inputs, target = self.batch(samples)
        given = {**inputs, **target, **changes}
        return method(**{name: value for name, value in given.items() if value is not LEFT_OUT})


LEFT_OUT = object()
"""Stands for an input that is not given."""


def trained(here: Here, **options: Any) -> Training:
    training = Training(here, **options)
    training.step()
    return training


def counted(number: int, act: Any) -> Any:
    """Return a function that calls ``act`` when it is called the ``number``-th time."""
    left = [number]

    def count(*args: Any) -> Any:
        left[0] -= 1
        return act(*args) if left[0] == 0 else None

    return count
