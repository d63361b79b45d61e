"""Stages, batches, and the ways to train them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pipecodec

from .schedules import SCHEDULES, Kind

__all__ = ["Batch", "Case", "Stages", "adamw", "cross_entropy", "plain", "sgd"]

Stages = list[nn.Module]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def plain(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output["logits"].flatten(0, -2), target.flatten())


@dataclass(frozen=True)
class Batch:
    """A batch as the schedule gets it, and its micro-batches as one process gets them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    micro: Sequence[tuple[Mapping[str, Any], Any]]

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], target: Any, chunks: int) -> Batch:
        """Return a batch whose tensors are split along their first dimension."""

        def part(value: Any, index: int) -> Any:
            return pytree.tree_map_only(
                Tensor, lambda leaf: leaf.tensor_split(chunks)[index].clone(), value
            )

        micro = [(part(dict(kwargs), i), part(target, i)) for i in range(chunks)]
        return cls((), kwargs, target, micro)


@dataclass
class Case:
    """Stages, batches, and the ways to train them."""

    stages: Callable[[int], Stages]
    batch: Callable[[int, int, bool], Batch]
    """Return the batch of a step, for a number of micro-batches, to train on or to evaluate."""
    inputs: Sequence[str] = ("ids",)
    schedule: str = "1F1B"
    loss: Callable[..., Tensor] | None = cross_entropy
    optimizer: Callable[[Any], torch.optim.Optimizer] = adamw
    chunks: int = 4
    steps: int = 3
    evaluate: frozenset[int] = frozenset()
    """Steps before which a batch is evaluated; ``steps`` means after the last one."""
    grad_mode: Callable[[], AbstractContextManager[Any]] = torch.no_grad
    """The context in which the caller evaluates."""
    accumulate: int = 1
    """Calls of the schedule for each step of the optimizer."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """The context of a call of the schedule, and of a forward pass in one process."""
    wrap: Callable[[Stages], Stages] = field(default=lambda stages: stages)
    """Prepares the pipeline's stages, and not those of one process."""
    outputs: Sequence[Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    worlds: tuple[int, ...] = (2,)
    """The numbers of ranks that train it."""
    within: float = 0.0
    """By how much losses and weights may differ from those of one process."""

    @property
    def kind(self) -> Kind:
        return SCHEDULES[self.schedule]

    def build(self, count: int) -> Stages:
        torch.manual_seed(0)
        return self.stages(count)

    def part(self, stages: Stages) -> pipecodec.Partition:
        own = [getattr(stage, "_orig_mod", stage) for stage in stages]
        part = pipecodec.partition_modules(own, list(self.inputs), self.outputs)
        for index, stage in enumerate(self.wrap(stages)):
            part.stages[index] = stage
        return part

    def run(self, stages: Stages, values: Mapping[str, Any]) -> Any:
        """Call the stages one after the other with the arguments that they name."""
        known, output = dict(values), None
        for stage in stages:
            names = inspect.signature(getattr(stage, "_orig_mod", stage).forward).parameters
            if isinstance(output, Tensor):
                known[next(iter(names))] = output
            output = stage(**{name: known[name] for name in names if name in known})
            if isinstance(output, dict):
                known.update(output)
        return output

    def loss_of(self, output: Any, target: Any) -> Tensor:
        if self.loss is not None:
            return self.loss(output, target)
        found: Tensor = output["loss"]
        return found
