"""The same stages in three ways: by hand as plain tuples, in pipecodec, in the origin's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.boundary.cases import Case
from benchmarks.contenders import origin
from pipecodec import partition_modules
from pipecodec.deepspeed import DeepSpeedPipeStageWrapper

__all__ = ["BY_HAND", "ORIGIN", "PIPECODEC", "bare_stages", "tuple_stages", "ways", "wrapped"]

BY_HAND, PIPECODEC, ORIGIN = "by hand", "pipecodec", "origin"


class _Stage(nn.Module):
    """A product with one number: almost no work, so that the cost is the boundary's."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.weight = nn.Parameter(torch.ones(1))

    def scaled(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight.to(hidden.dtype)

    def loss(self, hidden: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        means = [self.scaled(hidden).mean(dtype=torch.float32)]
        means += [tensor.mean() for tensor in tensors if tensor.is_floating_point()]
        return torch.stack(means).sum()


class First(_Stage):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.constant = torch.ones(case.shape, dtype=case.dtype)

    def forward(self, x: Tensor) -> Any:
        hidden = self.scaled(self.constant)
        return {"given": self.case.give(hidden, self.case.tensors(hidden))}


class Middle(_Stage):
    def forward(self, given: Any) -> Any:
        hidden, tensors = self.case.take(given)
        return {"given": self.case.give(self.scaled(hidden), tensors)}


class Last(_Stage):
    def forward(self, given: Any) -> Tensor:
        return self.loss(*self.case.take(given))


class FirstTuple(First):
    def forward(self, x: Tensor) -> Any:
        hidden = self.scaled(self.constant)
        return hidden, *self.case.tensors(hidden)


class MiddleTuple(_Stage):
    def forward(self, inputs: tuple[Tensor, ...]) -> Any:
        hidden, *tensors = inputs
        return self.scaled(hidden), *tensors


class LastTuple(_Stage):
    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        hidden, *tensors = inputs
        return self.loss(hidden, tuple(tensors))


class Origin(nn.Module):
    """A stage in the origin's wrapper, which turns its list of live values into tensors and back.

    The metadata come last, behind the tensors as they are.
    """

    def __init__(self, stage: nn.Module, first: bool, last: bool) -> None:
        super().__init__()
        self.stage, self.first, self.last = stage, first, last
        self.send, self.receive = origin.make()

    def forward(self, inputs: Any) -> Any:
        output = self.stage(inputs if self.first else self.receive(inputs)[0])
        return output if self.last else self.send((output["given"],))


def ways(case: Case) -> tuple[str, ...]:
    """Return the ways in which this case is measured."""
    return (BY_HAND, PIPECODEC, ORIGIN) if case.origin else (BY_HAND, PIPECODEC)


def bare_stages(case: Case, count: int) -> list[nn.Module]:
    """Return the stages as one would write them: each gives its value by name."""
    return [First(case), *(Middle(case) for _ in range(count - 2)), Last(case)]


def tuple_stages(way: str, case: Case, count: int) -> list[nn.Module]:
    """Return stages for the stock engine, by hand or in the origin's way."""
    if way == BY_HAND:
        return [FirstTuple(case), *(MiddleTuple(case) for _ in range(count - 2)), LastTuple(case)]
    stages = bare_stages(case, count)
    return [Origin(stage, k == 0, k == count - 1) for k, stage in enumerate(stages)]


def wrapped(case: Case, count: int) -> list[nn.Module]:
    """Return pipecodec's wrapped stages, for use without an engine."""
    part = partition_modules(bare_stages(case, count), ["x"])
    make: Callable[..., nn.Module] = DeepSpeedPipeStageWrapper
    return [
        make(stage, k, f"submod_{k}", count, part.liveness, part.stage_id_2_arg_names)
        for k, stage in enumerate(part.stages)
    ]
