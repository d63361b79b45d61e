"""The model's state dict from a running engine and into it, and from a checkpoint's files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..arguments import described, flag, instance
from ..engine.failure import call_on_all_ranks
from ..engine.model_state import gathered, sharded
from ..engine.stage_module import StageModule
from ..engine.together import raise_on_all_ranks
from ..stages.partition import Partition, check_part
from .checkpoint_files import latest_tag

__all__ = [
    "checkpoint_state_dict",
    "load_model_state_dict",
    "model_state_dict",
    "stages_of",
]

_IN_WRAPPER = "mod."


@call_on_all_ranks
def model_state_dict(
    engine: Any, part: Partition, *, masters: bool = False
) -> dict[str, Any] | None:
    """Return on rank 0 the state dict of the model that ``part`` was cut from; None elsewhere.

    All ranks call it together. The first data-parallel replica of each stage sends its tensors to
    rank 0 one by one, a tied weight once; they arrive on the CPU and share no memory with the
    engine. The weights are those that the model computes with; with ``masters`` those in fp32 that
    the optimizer keeps, where it keeps any. Raises ``ValueError``, the same on every rank, where
    ``part.state_dict_to_model`` would, and for weights sharded over tensor-parallel ranks.
    """
    check_part(part)
    stages = stages_of(engine)
    state = part.known_model_state()
    flag("masters", masters)
    raise_on_all_ranks(sharded(stages))
    entries = {stage: _entries(module, masters) for stage, module in stages.items()}
    first = engine.grid.get_data_parallel_rank() == engine.grid.get_slice_parallel_rank() == 0
    return gathered(state, entries, engine.device, first_replica=first)


@call_on_all_ranks
def load_model_state_dict(engine: Any, part: Partition, state_dict: Mapping[str, Any]) -> None:
    """Load the model's state dict into the stages of a running engine, on any device.

    All ranks call it together with the same state dict, and each takes its stages' entries.
    The optimizer's fp32 weights become those given, in full precision; its moments stay. Raises
    ``ValueError``, the same on every rank, where ``part.state_dict_from_model`` would, if a shape
    does not fit, and for weights sharded over tensor-parallel ranks.
    """
    check_part(part)
    stages = stages_of(engine)
    raise_on_all_ranks(sharded(stages))
    problem = None
    try:
        states = part.state_dict_from_model(state_dict)
        for stage, module in stages.items():
            module.load_state_dict(states[stage])
    except (ValueError, RuntimeError) as error:
        problem = str(error)
    except Exception as error:  # it is no state dict, such as the None of other ranks
        problem = f"{type(error).__name__}: {error}"
    raise_on_all_ranks(problem)
    if hasattr(engine.optimizer, "refresh_fp32_params"):  # all that there is for fp16 without ZeRO
        engine.optimizer.refresh_fp32_params()
    for stage, module in stages.items():
        for path, parameter in module.named_parameters():
            if getattr(parameter, "_hp_mapping", None) is not None:
                value = states[stage][path].to(parameter.device, torch.float32)
                parameter.set_full_hp_param(value)  # type: ignore[attr-defined]


def checkpoint_state_dict(
    part: Partition, folder: str | Path, tag: str | None = None
) -> dict[str, Any]:
    """Return the model's state dict from a checkpoint of ``engine.save_checkpoint``.

    In one process, without an engine. ``tag`` None means the last one saved. The weights are those
    that the model computed with, the fp32 ones of a bf16 optimizer are not in it. Raises
    ``ValueError`` where ``part.state_dict_to_model`` would, if a stage's file is missing, and for
    weights sharded over tensor-parallel ranks.
    """
    check_part(part)
    instance("folder", folder, (str, os.PathLike), "the save_dir of engine.save_checkpoint")
    if tag is None:
        tag = latest_tag(Path(folder))
    if tag is None:
        raise ValueError(
            f"{folder} has no file latest, which engine.save_checkpoint writes; pass its save_dir, "
            f"or tag= as well"
        )
    states = []
    for stage in range(len(part.stages)):
        files = sorted(Path(folder, str(tag)).glob(f"layer_{stage:02d}-*model_states.pt"))
        if not files:
            raise ValueError(
                f"{Path(folder, tag)} has no layer_{stage:02d}-*model_states.pt, so nothing of "
                f"stage {stage}; it was saved by another pipeline, or not by save_checkpoint"
            )
        first, *others = (torch.load(file, map_location="cpu") for file in files)
        for other in others:
            if any(not torch.equal(first[key], value) for key, value in other.items()):
                raise ValueError(f"{len(files)} tensor-parallel ranks hold parts of stage {stage}")
        states.append(
            {
                key.removeprefix(_IN_WRAPPER): v
                for key, v in first.items()
                if key.startswith(_IN_WRAPPER)
            }
        )
    return part.state_dict_to_model(states)


def stages_of(engine: Any) -> dict[int, nn.Module]:
    """Return the modules of this rank's stages; ``TypeError`` if it is no engine of stages."""
    module = getattr(engine, "module", None)
    wrappers = [m for m in _modules(module) if isinstance(m, StageModule)]
    if not wrappers:
        must = "an engine of stages, as pipecodec.deepspeed.initialize returns it"
        raise TypeError(f"engine must be {must}, not {described(engine)}")
    return {wrapper.stage_id: wrapper.mod for wrapper in wrappers}


def _modules(module: Any) -> Iterable[nn.Module]:
    return module.modules() if isinstance(module, nn.Module) else ()


def _entries(module: nn.Module, masters: bool) -> dict[str, Any]:
    """Return a stage's state dict, with the optimizer's weights if asked for."""
    entries: dict[str, Any] = module.state_dict(keep_vars=True)
    kept: dict[nn.Parameter, torch.Tensor] = {}
    for path, value in entries.items():
        if masters and hasattr(value, "_hp_mapping"):
            if value not in kept:  # put together by all replicas, from the part of each
                kept[value] = value.get_full_hp_param()
            entries[path] = kept[value]
    return entries
