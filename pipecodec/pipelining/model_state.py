"""The model's state dict from running stages and into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..engine.model_state import gathered
from ..engine.together import raise_on_all_ranks
from ..stages.model_state import ModelState
from .own_tensors import partition_names
from .pipeline import Pipeline

__all__ = ["load_model_state_dict", "model_state_dict"]


def model_state_dict(stages: Any, *, full: bool = True) -> dict[str, Any] | None:
    """Return the state dict of the model that the stages were cut from.

    Call it with this rank's stages (one, or a list of all), on all ranks. With ``full`` rank 0 gets
    the whole state dict, on the CPU and with memory of its own, and the others None. Without it
    every rank gets the entries of its stages under the model's names, in the stages' own memory,
    which ``torch.distributed.checkpoint`` saves and loads. Raises ``ValueError``, the same on every
    rank, where ``part.state_dict_to_model`` would.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("model_state_dict"):
        state = pipeline.part.known_model_state()
        entries = {
            stage.stage_index: _entries(state, stage.stage_index, stage.submod)
            for stage in pipeline.stages
        }
        if full:
            whole = {
                stage: {name: _whole(value) for name, value in own.values()}
                for stage, own in entries.items()
            }
            return gathered(state, whole, pipeline.device, first_replica=True, group=pipeline.group)
        named = {stage: dict(own.values()) for stage, own in entries.items()}
        raise_on_all_ranks(_problem(state, named), pipeline.group)
        found = {}
        for key, places in state.places.items():
            for name, stage in places:
                if name in named.get(stage, ()):
                    found[key] = named[stage][name]
                    break
        return found


def load_model_state_dict(stages: Any, state_dict: Mapping[str, Any], *, full: bool = True) -> None:
    """Load the model's state dict into the stages of this rank, from any device.

    Call it with this rank's stages (one, or a list of all), on all ranks: with ``full`` with the
    whole state dict of the model, without it with that of this rank's stages, as
    ``model_state_dict`` with ``full=False`` gives it. Raises ``ValueError``, the same on every
    rank and before anything is loaded, if an entry is missing, unknown or of another shape, or if
    names of one weight have several values.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("load_model_state_dict"):
        state = pipeline.part.known_model_state()
        given: dict[int, dict[str, Any]] = {}
        problem = None
        try:
            indices = [stage.stage_index for stage in pipeline.stages]
            states = state.from_model(state_dict, stages=None if full else indices)
            for stage in pipeline.stages:
                index = stage.stage_index
                given[index] = _given(_entries(state, index, stage.submod), states[index], index)
        except Exception as error:  # it may be no state dict, such as the None of other ranks
            problem = _said(error)
        raise_on_all_ranks(problem, pipeline.group)
        try:
            for stage in pipeline.stages:
                stage.submod.load_state_dict(given[stage.stage_index])
        except Exception as error:  # of the module's own code
            problem = _said(error)
        raise_on_all_ranks(problem, pipeline.group)


def _entries(state: ModelState, stage: int, module: nn.Module) -> dict[str, tuple[str, Any]]:
    """Return the stage's entries by their keys in its own state dict: (name, value).

    The name is that in the partition.
    """
    own = module.state_dict()
    known = [name for places in state.places.values() for name, owner in places if owner == stage]
    names = partition_names(module, own, known)
    return {key: (names[key], value) for key, value in own.items()}


def _whole(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _problem(state: ModelState, own: Mapping[int, Mapping[str, Any]]) -> str | None:
    """Return why the entries of this rank's stages are not those of the partition."""
    paths: list[Any] = [set() for _ in range(state.stages)]
    for places in state.places.values():
        for name, stage in places:
            paths[stage].add(name)
    try:
        state.check([own.get(stage, names) for stage, names in enumerate(paths)])
    except ValueError as error:
        return str(error)
    return None


def _given(
    own: Mapping[str, tuple[str, Any]], values: Mapping[str, Any], stage: int
) -> dict[str, Any]:
    """Return the values of a stage by the keys of its own state dict; ``ValueError`` if unfit."""
    given = {}
    for key, (name, here) in own.items():
        if name not in values:
            raise ValueError(
                f"the model has no place for {name!r} of stage {stage}, or the state dict has no "
                f"value for it"
            )
        value = values[name]
        if isinstance(here, torch.Tensor):
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"{name!r} of stage {stage} is a tensor, not {value!r}")
            if value.shape != here.shape:
                raise ValueError(
                    f"{name!r} of stage {stage} has the shape {list(here.shape)}, but the one "
                    f"given has {list(value.shape)}"
                )
            if isinstance(value, DTensor) and not isinstance(here, DTensor):
                raise ValueError(
                    f"{name!r} of stage {stage} is no DTensor, but the one given is; give "
                    f"value.full_tensor()"
                )
            if isinstance(here, DTensor) and not isinstance(value, DTensor):
                value = distribute_tensor(
                    value.to(here.device), here.device_mesh, here.placements, src_data_rank=None
                )
        given[key] = value
    return given


def _said(error: Exception) -> str:
    known = isinstance(error, (ValueError, RuntimeError))
    return str(error) if known else f"{type(error).__name__}: {error}"
