"""Finds why an engine with a checkpoint's own cut cannot load it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .checkpoint_files import load_file, saved_files, stage_of
from .checkpoint_find import Checkpoint
from .checkpoint_index import common_of, described, differences, own_of
from .checkpoint_layout import layout_of, state_files
from .guards import settings_of
from .model_state import stages_of

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["mismatches"]


def mismatches(
    engine: Any, part: Partition, found: Checkpoint, options: Mapping[str, bool]
) -> list[str]:
    """Say why this rank cannot load a checkpoint with ``load_checkpoint``'s ``options``.

    Reads all files that the rank needs.
    """
    common, own = common_of(engine, part), own_of(engine)
    whole = not options["load_module_only"]
    optimizer = whole and options["load_optimizer_states"]
    strict = options["load_module_strict"]
    if found.index is None:
        saved: Mapping[str, Any] = {"stages": _layers(found)}
        theirs = None
    else:
        saved, theirs = found.index, found.index["ranks"].get(str(engine.checkpoint_mp_rank))
    unlike = differences(saved, theirs, common, own, optimizer=optimizer, strict=strict)
    if not unlike:
        if problems := found.problems(_needed(engine, found, optimizer)):
            return problems
        if found.index is None:
            saved, theirs = _header(engine, found, own)
            unlike = differences(saved, theirs, common, own, optimizer=optimizer, strict=strict)
    if not unlike and theirs is not None and whole and options["load_lr_scheduler_states"]:
        there, here = theirs["scheduler"] or "none", own["scheduler"] or "none"
        if there != here:
            unlike = [
                f"the LR schedule {there}, this engine has {here}; "
                f"load_lr_scheduler_states=False leaves it out"
            ]
    if not unlike:
        return []
    advice = ""
    if any("pipeline stages" in each for each in unlike):
        advice = "; pipecodec.deepspeed.load_checkpoint loads into another number of stages"
    return [f"{found.folder} was saved with {', '.join(unlike)}{advice}"]


def _layers(found: Checkpoint) -> int:
    """Count the stages whose weights are in the folder."""
    return len({stage_of(name) for name in saved_files(found.folder)} - {None})


def _needed(engine: Any, found: Checkpoint, optimizer: bool) -> list[str]:
    """Return the names of the files that this rank's load reads."""
    stages = stages_of(engine)
    there = saved_files(found.folder) if found.index is None else list(found.index["files"])
    names = [name for name in there if stage_of(name) in stages]
    lacking = stages.keys() - {stage_of(name) for name in names}
    names += [f"layer_{stage:02d}-model_states.pt" for stage in lacking]
    names.append(os.path.basename(engine._get_ckpt_name("", "tag")))
    layout = layout_of(engine)
    if optimizer and layout is not None:
        files = state_files(engine, layout)
        names += files if engine.zero_elastic_checkpoint() else [files[layout.partition]]
    return names


def _header(
    engine: Any, found: Checkpoint, own: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the known settings of a checkpoint without a file of ours."""
    header = load_file(found.folder / os.path.basename(engine._get_ckpt_name("", "tag")))
    saved = {"replicas": header["dp_world_size"]}
    if isinstance(header.get("ds_config"), Mapping):
        settings = settings_of(header["ds_config"])
        enabled = [name for name in ("fp16", "bf16") if settings.get(name, {}).get("enabled")]
        saved["precision"] = enabled[0] if enabled else "fp32"
        saved["zero"] = settings.get("zero_optimization", {}).get("stage", 0)
    entries = {}
    for stage in own["stages"]:
        files = [name for name in saved_files(found.folder) if stage_of(name) == int(stage)]
        if len(files) > 1:  # of tensor-parallel ranks
            return saved, {"stages": own["stages"], "scheduler": own["scheduler"]}
        entries[stage] = {
            key.removeprefix("mod."): described(value)
            for key, value in load_file(found.folder / files[0]).items()
        }
    scheduler = None if header["lr_scheduler"] is None else own["scheduler"] or "of DeepSpeed's"
    return saved, {"stages": entries, "scheduler": scheduler}
