"""The methods of torch's schedules that are replaced: of an instance, never of a class.

``step`` is a call of all ranks, so that an error in it is all ranks', torch's own included.
``_step_microbatches`` is where the messages of a batch are, also for a caller that splits batches
itself. ``_merge_outputs`` gives the caller the model's values. tests/pipelining/test_torch.py says
which of them moved in another torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import FrameType, NoneType
from typing import Any

import torch
from torch.distributed.pipelining.schedules import _PipelineSchedule

from .inputs import split_target
from .loss import Loss
from .pipeline import Pipeline
from .placement import name_of
from .splitting import refuse_unsplit, refuse_unsplit_target

__all__ = ["attach_if_made"]

_OF_STEP = {"losses", "return_outputs", "loss_kwargs", "arg_mbs", "kwarg_mbs", "target_mbs"}
"""Keyword arguments of a schedule's step that are no inputs of the model (the last three: 2.14)."""


def attach_if_made(frame: FrameType) -> None:
    """Replace methods of the schedule whose ``__init__`` runs in ``frame``, if it is one."""
    if frame.f_code.co_name == "__init__":
        schedule = frame.f_locals.get("self")
        if isinstance(schedule, _PipelineSchedule):
            _attach(schedule)


def _attach(schedule: Any) -> None:
    """Replace methods of this schedule, and of no other; once."""
    if "_merge_outputs" in vars(schedule):
        return
    run, step = schedule._step_microbatches, schedule.step

    @functools.wraps(run)
    def _step_microbatches(
        arg_mbs: Any = None,
        kwarg_mbs: Any = None,
        target_mbs: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        with _pipeline_of(schedule).batch(schedule):
            return run(arg_mbs, kwarg_mbs, target_mbs, *args, **kwargs)

    @functools.wraps(step)
    def whole_step(*args: Any, target: Any = None, **kwargs: Any) -> Any:
        pipeline = _pipeline_of(schedule)
        with pipeline.call(name_of(schedule)):
            inputs = {k: v for k, v in kwargs.items() if k not in _OF_STEP}
            _check(schedule, pipeline, args, inputs, target, kwargs.get("target_mbs") is not None)
            if not isinstance(target, (torch.Tensor, NoneType)):
                target = split_target(target, schedule._n_microbatches)
            return step(*args, target=target, **kwargs)

    schedule._step_microbatches = _step_microbatches
    schedule.step = whole_step
    schedule._merge_outputs = lambda chunks: [chunk.value for chunk in chunks]


def _pipeline_of(schedule: Any) -> Pipeline:
    return Pipeline.of(getattr(schedule, "_stages", None) or [schedule._stage])


def _check(
    schedule: Any,
    pipeline: Pipeline,
    args: Any,
    kwargs: Mapping[str, Any],
    target: Any,
    split_before: bool,
) -> None:
    """Raise ``ValueError`` for a schedule, or a batch, that does not fit.

    ``split_before`` tells that the target was given in micro-batches, as torch 2.14 takes it.
    """
    if schedule._loss_fn is not None and not isinstance(schedule._loss_fn, Loss):
        raise ValueError(
            "the schedule's loss_fn cannot take the last stage's value: give the schedule "
            "loss_fn=pipecodec.pipelining.loss(loss_fn)"
        )
    if schedule._output_merge_spec is not None:
        raise ValueError(
            "output_merge_spec has no say: schedule.step returns a list with the model's value for "
            "each micro-batch; leave it out"
        )
    targets = target is not None or split_before
    if not targets and schedule._loss_fn is not None and pipeline.stages[-1].is_last:
        raise ValueError(
            "the rank of the last stage has to pass target= to step and eval: the schedule has a "
            "loss function, and torch gives it a part of the target"
        )
    inputs: dict[str, Any] = {}
    if schedule._args_chunk_spec is None:
        names = pipeline.part.input_names
        inputs |= {names[i] if i < len(names) else f"args[{i}]": arg for i, arg in enumerate(args)}
    if schedule._kwargs_chunk_spec is None:
        inputs |= kwargs
    fixed = len(pipeline.part.stages) > 1 and not pipeline.settings.options.dynamic_shape
    refuse_unsplit(inputs, schedule._n_microbatches, evenly=fixed)
    if target is not None:
        refuse_unsplit_target(target, schedule._n_microbatches)
