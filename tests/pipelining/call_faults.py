"""Calls that the other ranks do not make, set-ups that differ, and errors that ranks survive."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import ScheduleInterleavedZeroBubble

from pipecodec import pipelining

from .faults import Cases, Here
from .planted import (
    Last,
    LastWithoutIds,
    Training,
    mse,
    partition,
    stage_numbers,
    trained,
)

__all__ = ["CALLS"]

CALLS = case = Cases()


@case("step and eval", 1, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    training.eval() if here.fault else training.step()


@case("eval and step", 0, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    training.step() if here.fault else training.eval()


@case("number of micro-batches", 1, "different calls", "different calls")
def _(here: Here) -> None:
    Training(here, micro_batches=(3 if here.fault else 4) * here.world).step()


@case("other schedule", 1, "different calls|build the stages where", "different calls")
def _(here: Here) -> None:
    other = {"1f1b": ScheduleGPipe, "gpipe": Schedule1F1B}.get(
        here.layout, ScheduleInterleavedZeroBubble
    )
    Training(here, schedule=other if here.fault else None, numbers=stage_numbers(here)).step()


@case("scale_grads", 1, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    training.schedule.scale_grads = not here.fault
    training.step()


@case("order of a schedule", 1, "different calls.* Own.step", "different calls.* Own.step")
def _(here: Here) -> None:
    class Own(Schedule1F1B):
        """One that gives another order for the second micro-batches."""

        def _get_pipeline_order(self) -> Any:
            order = super()._get_pipeline_order()
            assert order is not None
            return {rank: actions[: -1 if here.fault else None] for rank, actions in order.items()}

    Training(here, schedule=Own).step()


@case("clip_grad_norm_ alone", 1, "different calls", "different calls")
def _(here: Here) -> None:
    training = trained(here)
    if here.fault:
        pipelining.clip_grad_norm_(training.stages, 1.0)
    training.step()


@case("one step more (stall_timeout=1)", 1, r"rank \d did not come to .*step", "^$")
def _(here: Here) -> None:
    training = trained(here, stall_timeout=1)
    if here.fault:
        training.step()


@case("another number of stages", 1, "ranks differ in", "ranks differ in")
def _(here: Here) -> None:
    Training(here, part=partition(here.world + here.fault)).step()


@case("other values cross", 1, "ranks differ in the values that", "ranks differ in the values that")
def _(here: Here) -> None:
    count = len(stage_numbers(here)) * here.world
    Training(here, part=partition(count, LastWithoutIds if here.fault else Last)).step()


@case("option", 1, "ranks differ in dynamic_shape", "ranks differ in dynamic_shape")
def _(here: Here) -> None:
    Training(here, dynamic_shape=here.fault).step()


@case("stage built on two ranks", 1, "was built on", "was built on")
def _(here: Here) -> None:
    numbers = stage_numbers(here)
    if here.fault:
        numbers = [number - 1 for number in numbers]
    Training(here, numbers=numbers).step()


@case("stages placed elsewhere", 1, "build the stages where the schedule", "build the stages where")
def _(here: Here) -> None:
    n = here.world
    numbers = [(k + 1) % n + k // n * n for k in stage_numbers(here)]
    Training(here, numbers=numbers).step()


@case("a torch stage among them", 1, "stage . is a PipelineStage", "stage . is a PipelineStage")
def _(here: Here) -> None:
    training = Training(here)
    stages, cls = list(training.stages), type(training.schedule)
    if here.fault:
        number, count = stages[-1].stage_index, len(training.part.stages)
        stages[-1] = PipelineStage(nn.Linear(4, 4), number, count, torch.device("cpu"))
    training.schedule = cls(stages, 2 * here.world, loss_fn=pipelining.loss(mse))
    training.step()


@case("some of the stages", 1, "this rank has the stages", "this rank has the stages")
def _(here: Here) -> None:
    training = trained(here)
    given = training.stages[:1] if here.fault else training.stages
    pipelining.clip_grad_norm_(given, 1.0)


@case("recovered: settings differ", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here, dynamic_shape=here.fault)
    for _ in range(2):
        try:
            training.step()
        except ValueError as error:
            assert "ranks differ in dynamic_shape" in str(error)
        else:
            raise AssertionError("trained")
    trained(here).eval()


@case("recovered: no gradients", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here)
    for _ in range(2):
        try:
            with torch.no_grad():
                training.step()
        except RuntimeError as error:
            assert "requires gradients" in str(error)
        else:
            raise AssertionError("trained")
        training.step()
        training.eval()


@case("no gradients on all ranks", 1, "requires gradients", "requires gradients")
def _(here: Here) -> None:
    """The case after this one talks, though the watcher of this one ends with an error."""
    with torch.no_grad():
        Training(here).step()


@case("dynamic sizes", 1, "^$", "^$")
def _(here: Here) -> None:
    training = Training(here, dynamic_shape=True)
    for samples in 24, 48, 36:
        training.step(samples)
        training.eval(samples + 1)
