"""A training that is done twice: by a schedule of torch, and stage after stage in one process."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pipecodec
from pipecodec.demo.launch import Rank

from .schedules import SCHEDULES, Kind

__all__ = ["Batch", "Case", "Trained", "adamw", "cross_entropy", "on_schedule", "plain", "sgd"]

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
class Trained:
    """Results of a training, of a rank's stages or of all: losses, outputs, states, gradients."""

    losses: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    evaluations: list[Any] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    missing: list[frozenset[str]] = field(default_factory=list)


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


def alone(case: Case, count: int) -> Trained:
    """Train in one process."""
    stages, result = case.build(count), Trained()
    names = _names(stages, range(count))
    parameters = [p for p in names.values() if p.requires_grad]
    optimizer = case.optimizer(parameters)
    torch.manual_seed(1)
    for step in range(case.steps + 1):
        if step in case.evaluate:
            with torch.no_grad(), case.around():
                found = []
                for values, target in case.batch(step, case.chunks, True).micro:
                    output = case.run(_mode(stages, False), values)
                    found.append((_copy(output), _copy(case.loss_of(output, target))))
            result.evaluations.append(found)
            _mode(stages, True)
        if step == case.steps:
            break
        for call in range(case.accumulate):
            batch = case.batch(step * case.accumulate + call, case.chunks, False)
            losses, outputs = [], []
            for values, target in batch.micro:
                with case.around():
                    output = case.run(stages, values)
                    loss = case.loss_of(output, target)
                losses.append(loss.item())
                outputs.append(_copy(output))
                loss.backward()
            result.losses.append(losses)
            result.outputs.append(outputs)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(case.chunks)
        _step(result, optimizer, names, stages, range(count))
    return result


def on_rank(case: Case, rank: int, world: int) -> Trained:
    """Train this rank's stages with the case's schedule."""
    count = case.kind.count(world)
    modules, result = case.build(count), Trained()
    part = case.part(modules)
    own = case.kind.stages(rank, world)
    stages = [pipecodec.pipelining.build_stage(part, index, **case.options) for index in own]
    loss = pipecodec.pipelining.loss(case.loss)
    schedule = case.kind.make(stages, case.chunks, loss_fn=loss)
    names = _names(modules, own)
    optimizer = case.optimizer([p for p in names.values() if p.requires_grad] or [torch.zeros(1)])
    first, last = 0 in own, count - 1 in own
    torch.manual_seed(1)

    def call(run: Any, batch: Batch) -> tuple[Any, Any]:
        losses: list[Any] = []
        given = _copy(dict(batch.kwargs)) if first else {}
        target = {"target": batch.target} if last else {}
        outputs = run(*(batch.args if first else ()), **given, **target, losses=losses)
        return outputs, losses

    for step in range(case.steps + 1):
        if step in case.evaluate:
            _mode(modules, False)
            with case.grad_mode(), case.around():
                outputs, losses = call(schedule.eval, case.batch(step, case.chunks, True))
            if last:
                pairs = zip(outputs, losses, strict=True)
                result.evaluations.append([(_copy(o), _copy(loss)) for o, loss in pairs])
            _mode(modules, True)
        if step == case.steps:
            break
        for index in range(case.accumulate):
            batch = case.batch(step * case.accumulate + index, case.chunks, False)
            with case.around():
                outputs, losses = call(schedule.step, batch)
            if last:
                result.losses.append([loss.item() for loss in losses])
                result.outputs.append(_copy(outputs))
        pipecodec.pipelining.sum_tied_gradients(stages)
        _step(result, optimizer, names, modules, own)
    return result


def on_schedule(rank: Rank, module: str) -> dict[str, str]:
    """Train every case of a module of this folder, and compare with one process.

    Returns the first difference of each case, or nothing. The rank finds the cases itself, since
    they hold functions.
    """
    cases: dict[str, Case] = importlib.import_module(f".{module}", __package__).CASES
    dist.init_process_group("gloo", rank=rank.rank, world_size=rank.world)
    found = {}
    for name, case in cases.items():
        if rank.world not in case.worlds:
            continue
        rank.say(name)
        expected = alone(case, case.kind.count(rank.world))
        got = on_rank(case, rank.rank, rank.world)
        found[name] = difference(got, expected, case.within)
    dist.destroy_process_group()
    return found


def difference(got: Trained, expected: Trained, within: float) -> str:
    """Say the first difference of a rank's results from those of one process, or nothing."""
    for step, (here, there) in enumerate(zip(got.missing, expected.missing, strict=True)):
        own = {name for name in there if name in got.states[step]}
        if here != own:
            return f"no gradient in step {step}: {sorted(here)} instead of {sorted(own)}"
    for step, (here, there) in enumerate(zip(got.states, expected.states, strict=True)):
        for name in here:
            if not _same(here[name], there[name], within):
                return f"{name} after step {step} by {(here[name] - there[name]).abs().max():.1e}"
    for kind in ("losses", "outputs", "evaluations"):
        here, there = getattr(got, kind), getattr(expected, kind)
        if here and not _same(here, there, within):
            return f"{kind} {here} instead of {there}"
    return ""


def _same(one: Any, other: Any, within: float) -> bool:
    leaves, spec = pytree.tree_flatten(one)
    others, other_spec = pytree.tree_flatten(other)
    return spec == other_spec and all(map(lambda a, b: _equal(a, b, within), leaves, others))


def _equal(one: Any, other: Any, within: float) -> bool:
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        if not within or not one.is_floating_point():
            return same and torch.equal(one, other)
        return same and torch.allclose(one, other, rtol=0.0, atol=within, equal_nan=True)
    if within and isinstance(one, float):
        return abs(one - other) <= within
    return bool(one == other)


def _step(
    result: Trained, optimizer: Any, names: Mapping[str, Any], stages: Stages, own: Any
) -> None:
    result.missing.append(frozenset(name for name, p in names.items() if p.grad is None))
    optimizer.step()
    optimizer.zero_grad()
    for p in names.values():
        p.grad = None
    state = {
        f"{index}.{name}": value.detach().clone()
        for index in own
        for name, value in stages[index].state_dict().items()
    }
    result.states.append(state)


def _names(stages: Stages, own: Any) -> dict[str, nn.Parameter]:
    return {f"{index}.{n}": p for index in own for n, p in stages[index].named_parameters()}


def _mode(stages: Stages, training: bool) -> Stages:
    for stage in stages:
        stage.train(training)
    return stages


def _copy(value: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), value)
