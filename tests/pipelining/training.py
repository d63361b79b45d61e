"""A training that is done twice: by a schedule of torch, and stage after stage in one process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pipecodec
from pipecodec.demo.launch import Rank

from .case import Batch, Case, Stages
from .difference import Trained, difference

__all__ = ["alone", "difference", "on_rank", "on_schedule"]


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
