"""The model's state dict from running stages and into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from ..engine.model_state import gathered
from ..engine.together import raise_on_all_ranks
from .pipeline import Pipeline
from .tied_weights import own_path, unwrapped

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
        entries = _entries(pipeline)
        if full:
            whole = {
                stage: {path: _whole(value) for path, value in own.items()}
                for stage, own in entries.items()
            }
            group = pipeline.group
            first = group is None or 0 in dist.get_process_group_ranks(group)
            return gathered(state, whole, pipeline.device, first_replica=first)
        found = {}
        for key, places in state.places.items():
            for path, stage in places:
                if path in entries.get(stage, ()):
                    found[key] = entries[stage][path]
                    break
        return found


def load_model_state_dict(stages: Any, state_dict: Mapping[str, Any], *, full: bool = True) -> None:
    """Load the model's state dict into the stages of this rank, from any device.

    Call it with this rank's stages (one, or a list of all), on all ranks: with ``full`` with the
    whole state dict of the model, without it with that of this rank's stages, as
    ``model_state_dict`` with ``full=False`` gives it. Raises ``ValueError``, the same on every
    rank, if an entry is missing, unknown or of another shape.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("load_model_state_dict"):
        problem = None
        try:
            states = pipeline.part.state_dict_from_model(state_dict, strict=full)
            for stage in pipeline.stages:
                _load(unwrapped(stage.submod), states[stage.stage_index])
        except (ValueError, RuntimeError) as error:
            problem = str(error)
        except Exception as error:  # it is no state dict, such as the None of other ranks
            problem = f"{type(error).__name__}: {error}"
        raise_on_all_ranks(problem, pipeline.group)


def _entries(pipeline: Pipeline) -> dict[int, dict[str, Any]]:
    """Return the entries of this rank's stages, by stage and by their paths in the partition."""
    return {
        stage.stage_index: {
            own_path(path): value for path, value in unwrapped(stage.submod).state_dict().items()
        }
        for stage in pipeline.stages
    }


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _load(module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    own = module.state_dict()
    given = {path: state[own_path(path)] for path in own if own_path(path) in state}
    for path, value in given.items():
        here = own[path]
        if isinstance(here, DTensor) and not isinstance(value, DTensor):
            value = value.to(here.device)
            given[path] = distribute_tensor(value, here.device_mesh, here.placements)
    module.load_state_dict(given)
