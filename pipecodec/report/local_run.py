"""Runs the stages of a partition in this process, and shows each boundary's values."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..cutting.untouched import untouched
from ..errors import bug
from ..stages.local_inputs import Local, find_local_inputs
from ..stages.partition import Partition
from ..stages.stage import Absent, Stage, bind_inputs, look_up

__all__ = ["At", "Failure", "measure", "run_stages"]

RUNS = 3
"""Forwards of which the fastest is a stage's time, after one that is not counted."""


@dataclass(frozen=True)
class At:
    """The values at one boundary, in order, and the stage that made each (None: an input)."""

    boundary: int
    values: dict[str, Any]
    made_by: dict[str, int | None]
    own: dict[str, Any]
    """Inputs that enter the last stage from its own batch, and so do not cross here."""


@dataclass(frozen=True)
class Failure:
    """The error that ended a run, and the stage in which it was raised."""

    stage: int
    error: Exception


def run_stages(
    part: Partition,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    look: Callable[[At], Sequence[Any]],
    clock: Callable[[int, float], None] | None = None,
) -> Any:
    """Run all stages once, with gradients, and return the output, or a Failure.

    `look` gets the values at each boundary and returns those that the next stage gets; `clock` gets
    each stage and the seconds of its forward.
    """
    values: Sequence[Any] = bind_inputs(part.input_names, args, kwargs)
    batch = dict(zip(part.input_names, values, strict=True))
    local = find_local_inputs(part.liveness, part.stage_id_2_arg_names, part.outputs)
    made_by: dict[str, int | None] = {}
    last = len(part.stages) - 1
    for k, module in enumerate(part.stages):
        stage = Stage(local.liveness, part.stage_id_2_arg_names, k, outputs=part.outputs[k])
        try:
            env = stage.bind(values)
            if k == last:
                local.resolve(env, batch)
            state = {} if k == last else local.before(env, k)
            positional, keyword = stage.arguments(env)
            start = _now(module)
            output = module(*positional, **keyword)
            if clock is not None:
                clock(k, _now(module) - start)
            if k == last:
                return output
            before = dict(env)
            stage.name_outputs(env, output)
            made_by |= {
                name: k for name in env if name not in before or env[name] is not before[name]
            }
            names = local.liveness[k + 1]
            local.after(env, state, names)
            found = dict(zip(names, stage.collect(env, names), strict=True))
        except Exception as error:
            return Failure(k, error)
        crossing = {  # with the inputs that a stage changed, under their own names
            name.partition("@")[0]
            for name, value in found.items()
            if not ("@" in name and isinstance(value, (Absent, Local)))
        }
        makers = {name: _maker(name, made_by) for name in crossing}
        own = {n: look_up(batch, n) for n in part.liveness[k + 1] if n not in crossing}
        values = look(At(k, found, makers, own))
    raise bug("a partition without a stage")


def measure(part: Partition, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[float]:
    """Return the seconds of each stage's forward: the least of a few runs; empty if one fails."""
    seconds: list[list[float]] = [[] for _ in part.stages]
    for _ in range(RUNS + 1):
        with untouched(nn.ModuleList(part.stages)), torch.enable_grad():
            result = run_stages(
                part, args, kwargs, lambda at: list(at.values.values()),
                lambda k, time: seconds[k].append(time),
            )  # fmt: skip
        if isinstance(result, Failure):
            return []
    return [min(each[1:]) for each in seconds]


def _maker(name: str, made_by: Mapping[str, int | None]) -> int | None:
    while name not in made_by and "." in name:  # an item of a value
        name = name.rpartition(".")[0]
    return made_by.get(name)


def _now(module: nn.Module) -> float:
    if any(parameter.device.type not in ("cpu", "meta") for parameter in module.parameters()):
        torch.accelerator.synchronize()
    return time.perf_counter()
