"""A checkpoint is loaded into an engine that has another number of stages or replicas."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import torch

from ..engine.everywhere import everywhere, together
from ..engine.failure import call_on_all_ranks
from ..engine.together import raise_on_all_ranks
from ..errors import bug
from ..stages.partition import Partition, check_part
from .checkpoint_find import Checkpoint, find
from .checkpoint_index import COUNTERS, common_of, differences, own_of
from .checkpoint_layout import Layout, layout_of
from .checkpoint_source import Source
from .checkpoint_states import load_states, needed_states, schedule_state, states_of
from .model_state import stages_of

__all__ = ["load_checkpoint"]

_NAME = "load_checkpoint"

_CUT = {"stages", "replicas", "schedule", "ties"}
"""Settings that may differ."""

_OF_ONE_CUT = frozenset(
    "module buffer_names optimizer param_shapes frozen_param_shapes shared_params "
    "frozen_param_fragments lr_scheduler data_sampler random_ltd skipped_steps global_steps "
    "dp_world_size mp_world_size".split()
)
"""Keys of DeepSpeed's that are not returned: the engine has them, or they are of one cut alone."""


@call_on_all_ranks
def load_checkpoint(
    engine: Any, part: Partition, folder: str | os.PathLike[str], tag: str | None = None
) -> tuple[str | None, dict[str, Any] | None]:
    """Load a checkpoint of ``engine.save_checkpoint``, also from another number of stages.

    All ranks call it together, before or between batches. Weights, buffers, the optimizer's fp32
    weights, its state for each parameter (moments, step counts), the settings of each parameter's
    group, the LR schedule, the loss scale and the counters of steps and samples become those that
    were saved, so that training goes on as if it had not been stopped. The number of stages, where
    the model is cut and the number of data-parallel replicas may differ; precision, ZeRO stage,
    optimizer, LR schedule and tied weights may not. A rank reads the files that have something of
    its stages. Frozen parameters that were left out of the checkpoint stay as they are. Like
    DeepSpeed's own it unpickles files, so load only from where you trust.

    Args:
        engine: the engine that ``pipecodec.deepspeed.initialize`` made of ``part``.
        part: has to know the model, ``partition_modules(..., model=...)``, where the number of
            stages or replicas differs; that of the engine which saved too.
        folder: the ``save_dir`` of ``engine.save_checkpoint``.
        tag: which of the checkpoints there; None means the last one.

    Returns:
        The result of ``engine.load_checkpoint``: a path within the checkpoint and the
        ``client_state``, if the cut differs that of the first stage; (None, None) if ``tag`` is
        None and there is no checkpoint.

    Raises:
        ValueError: the same on every rank, before anything is changed, if the checkpoint is
            missing, damaged or not to be seen by a rank, or does not fit this engine.
    """
    check_part(part)
    stages_of(engine)
    found = find(folder, tag)
    if found is None or found.index is None:
        loaded: tuple[str | None, dict[str, Any] | None] = engine.load_checkpoint(folder, tag)
        return loaded
    common, own = common_of(engine, part), own_of(engine)
    theirs = found.index["ranks"].get(str(engine.checkpoint_mp_rank))
    unlike = everywhere(
        _NAME, lambda: differences(found.index or {}, theirs, common, own, optimizer=True)
    )
    if not any(unlike):
        return engine.load_checkpoint(folder, found.tag)  # type: ignore[no-any-return]
    raise_on_all_ranks(_unfit(found, common, own))
    source = together(_NAME, lambda: Source(found))
    names = together(_NAME, lambda: _names(engine, part, source))
    layout = layout_of(engine)
    if layout is None:
        raise bug("a fitting checkpoint for an optimizer of no known layout")

    def problems() -> str | None:
        entries = [source.layer(key) for key in names.values() if source.place(key) is not None]
        return (
            "; ".join(found.problems([*needed_states(layout, parameters, source), *entries]))
            or None
        )

    parameters: dict[torch.Tensor, str] = {
        parameter: names[path, stage]
        for stage, module in stages_of(engine).items()
        for path, parameter in module.named_parameters()
    }
    raise_on_all_ranks(together(_NAME, problems))

    def prepare() -> tuple[Any, Any, Any]:
        entries = {
            stage: {
                path: source.entry(names[path, stage])
                for path in module.state_dict()
                if source.place(names[path, stage]) is not None
            }
            for stage, module in stages_of(engine).items()
        }
        schedule = None
        if engine.lr_scheduler is not None:
            schedule = schedule_state(layout, parameters, source)
        return entries, states_of(layout, parameters, source), schedule

    entries, states, schedule = together(_NAME, prepare)

    def load() -> None:
        for stage, module in stages_of(engine).items():
            module.load_state_dict(entries[stage], strict=False)
        load_states(engine.optimizer, layout, states)
        if schedule is not None:
            engine.lr_scheduler.load_state_dict(schedule)
        for name in COUNTERS:
            setattr(engine, name, source.index["counters"][name])

    together(_NAME, load)
    client = {k: v for k, v in source.header().items() if k not in _OF_ONE_CUT}
    return str(found.folder / source.header_name()), client


def _unfit(found: Checkpoint, common: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """Say why a checkpoint cannot be cut anew for this engine."""
    index = found.index or {}
    saved = {key: value for key, value in index.items() if key not in _CUT}
    unlike = differences(saved, None, common, own, optimizer=True)
    if unlike:
        return f"{found.folder} was saved with {', '.join(unlike)}"
    if common["tensor"] > 1:
        return "tensor-parallel ranks can load no checkpoint of another number of stages"
    if index["model"] is None or common["model"] is None:
        return (
            f"{found.folder} is of another cut, and the entries of both cuts cannot be matched: "
            f"pass model= to partition_modules, where it is saved and where it is loaded"
        )
    for theirs in index["ranks"].values():
        one, other = theirs["optimizer"], own["optimizer"]
        if one is None or other is None:
            return "the state of the optimizer is not known, so it cannot be cut anew"
        for key in ("class", "kind"):
            if one[key] != other[key]:
                return f"{found.folder} was saved with {one[key]}, this engine has {other[key]}"
        if theirs["scheduler"] != own["scheduler"]:
            there, here = theirs["scheduler"] or "none", own["scheduler"] or "none"
            return f"{found.folder} was saved with the LR schedule {there}, this engine has {here}"
    return None


def _names(engine: Any, part: Partition, source: Source) -> dict[tuple[str, int], str]:
    """Return the model's name for each entry of this rank's stages.

    Raises ``ValueError`` if the checkpoint is of another model.
    """
    state = part.known_model_state()
    saved: Mapping[str, Any] = source.index["model"]
    if other := sorted(saved.keys() ^ state.places.keys()):
        raise ValueError(f"the checkpoint is of another model: one of both has {other[:3]} alone")
    for path, stage in source.nameless:
        raise ValueError(
            f"{path!r} of stage {stage} in the checkpoint has no place in the model, so it is of "
            f"that cut alone; make it the model's too, or a buffer that is not persistent"
        )
    here = {key: tuple(map(tuple, places)) for key, places in state.places.items()}
    there = {key: tuple(map(tuple, places)) for key, places in saved.items()}
    if one := _together(here) ^ _together(there):
        names = sorted(next(iter(one)))
        raise ValueError(
            f"{', '.join(names)} are one weight in the checkpoint or here, not in both"
        )
    keys = {place: key for key, places in here.items() for place in places}
    trained = {p for group in (layout_of(engine) or Layout("", None, [])).groups for p in group}
    names_here = {}
    for stage, module in stages_of(engine).items():
        for path, value in module.state_dict(keep_vars=True).items():
            if (key := keys.get((path, stage))) is None:
                raise ValueError(f"the model has no place for {path!r} of stage {stage}")
            names_here[path, stage] = key
            _check(
                key,
                value,
                value in trained if isinstance(value, torch.nn.Parameter) else None,
                source,
            )
    return names_here


def _together(places: Mapping[str, Hashable]) -> set[frozenset[str]]:
    """Return the names that are one weight."""
    groups: dict[Hashable, set[str]] = {}
    for key, where in places.items():
        if where:
            groups.setdefault(where, set()).add(key)
    return {frozenset(group) for group in groups.values()}


def _check(key: str, value: Any, trained: bool | None, source: Source) -> None:
    """Raise ``ValueError`` unless the checkpoint can restore this entry of the model."""
    if source.place(key) is None:
        if isinstance(value, torch.nn.Parameter) and not value.requires_grad:
            return
        raise ValueError(f"the checkpoint has no {key}")
    described = source.described(key)
    if described is not None and described[1] != list(value.shape):
        raise ValueError(
            f"{key} was saved with shape {described[1]}, here it has {list(value.shape)}"
        )
    if trained is not None and trained != (key in source.slots):
        then, now = ("was not", "is") if trained else ("was", "is not")
        raise ValueError(f"{key} {then} trained when it was saved, and {now} now")
