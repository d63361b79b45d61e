"""A description of an engine, saved with a checkpoint and compared before one is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .checkpoint_layout import layout_of, state_files
from .model_state import stages_of

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["COUNTERS", "common_of", "described", "differences", "own_of"]

COUNTERS = ("global_steps", "global_samples", "skipped_steps", "micro_steps")

_SAID = {
    "stages": "pipeline stages",
    "replicas": "data-parallel replicas",
    "tensor": "tensor-parallel ranks",
    "schedule": "schedule",
    "precision": "precision",
    "zero": "ZeRO stage",
    "ties": "tied weights",
}
_FOR_WEIGHTS = ("stages", "tensor", "schedule", "ties")
"""Settings that matter too where nothing but the weights is loaded."""


def common_of(engine: Any, part: Partition) -> dict[str, Any]:
    """Return, in JSON's types, the settings that are equal on all ranks."""
    state = part.model_state
    return {
        "stages": len(part.stages),
        "replicas": engine.grid.data_parallel_size,
        "tensor": engine.grid.model_parallel_size,
        "schedule": "dualpipev" if len(part.stages) > engine.num_stages else "1f1b",
        "precision": precision_of(engine),
        "zero": int(engine.zero_optimization_stage()),
        "ties": sorted(sorted(map(list, places)) for places in part.tie_weights.values()),
        "model": None
        if state is None
        else {key: [list(place) for place in places] for key, places in state.places.items()},
    }


def precision_of(engine: Any) -> str:
    """Return fp32, bf16 or fp16."""
    if engine.fp16_enabled():
        return "fp16"
    return "bf16" if engine.bfloat16_enabled() else "fp32"


def own_of(engine: Any) -> dict[str, Any]:
    """Return, in JSON's types, the state of this rank's stages and where its optimizer has it.

    "stages" has for each stage the dtype and shape of each entry of its state dict, null for an
    entry that is no tensor. "groups" has for each group of the optimizer the path, stage, first
    element and shape of each parameter, the path null for a parameter of the wrapper's own.
    """
    stages = stages_of(engine)
    names: dict[torch.Tensor, list[Any]] = {
        parameter: [path, stage]
        for stage, module in stages.items()
        for path, parameter in reversed([*module.named_parameters(remove_duplicate=False)])
    }
    layout = layout_of(engine)
    own: dict[str, Any] = {
        "stages": {
            str(stage): {path: described(value) for path, value in module.state_dict().items()}
            for stage, module in stages.items()
        },
        "frozen": {
            str(stage): [p for p, value in module.named_parameters() if not value.requires_grad]
            for stage, module in stages.items()
        },
        "scheduler": None if engine.lr_scheduler is None else type(engine.lr_scheduler).__name__,
        "optimizer": None,
    }
    if layout is not None:
        own["optimizer"] = {
            "kind": layout.kind,
            "class": type(layout.inner).__name__,
            "files": state_files(engine, layout),
            "sizes": layout.sizes,
            "groups": [
                [
                    [
                        *names.get(parameter, [None, None]),
                        layout.starts[index][number] if layout.starts else 0,
                        list(parameter.shape),
                    ]
                    for number, parameter in enumerate(group)
                ]
                for index, group in enumerate(layout.groups)
            ],
        }
    json.dumps(own)  # values that JSON cannot hold fail here, on this rank
    return own


def described(value: Any) -> list[Any] | None:
    """Return the dtype and shape of a tensor; None for anything else."""
    if not isinstance(value, torch.Tensor):
        return None
    return [str(value.dtype).removeprefix("torch."), list(value.shape)]


def differences(
    saved: Mapping[str, Any],
    theirs: Mapping[str, Any] | None,
    common: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    optimizer: bool,
    strict: bool = True,
) -> list[str]:
    """List the differences between a checkpoint's engine and this one.

    ``saved`` and ``theirs`` are the checkpoint's counterparts of ``common`` and ``own``; keys that
    they lack are not compared. With ``optimizer`` its state is to be loaded too;
    without ``strict`` entries of a stage may be missing.
    """
    found = []
    for key, name in _SAID.items():
        if key in saved and saved[key] != common[key] and (optimizer or key in _FOR_WEIGHTS):
            if key == "ties":
                found.append("other tied weights")
            elif isinstance(saved[key], int) and key != "zero":
                found.append(f"{saved[key]} {name}, this engine has {common[key]}")
            else:
                found.append(f"{name} {saved[key]}, this engine has {common[key]}")
    if found or theirs is None:
        return found
    for stage, entries in own["stages"].items():
        if (there := theirs["stages"].get(stage)) is None:
            found.append(f"no stage {stage} on this rank")
            continue
        found += _entries_differ(there, entries, stage, strict)
    if optimizer and not found:
        found += _optimizers_differ(theirs.get("optimizer"), own["optimizer"])
    return found


def _entries_differ(
    there: Mapping[str, Any], here: Mapping[str, Any], stage: str, strict: bool
) -> list[str]:
    found = []
    if strict and (missing := [path for path in here if path not in there]):
        found.append(
            f"no {_some(missing)} in stage {stage} (load_module_strict=False leaves that as it is)"
        )
    if strict and (unexpected := [path for path in there if path not in here]):
        found.append(f"{_some(unexpected)} in stage {stage}, which this engine lacks")
    for path in here:
        one, other = there.get(path), here[path]
        if one is not None and other is not None and one[1] != other[1]:
            found.append(f"shape {one[1]} of {path} in stage {stage}, this engine has {other[1]}")
    return found


def _optimizers_differ(there: Any, here: Any) -> list[str]:
    if there is None or here is None:
        return []
    for key, name in (("class", "optimizer"), ("kind", "DeepSpeed's optimizer")):
        if there[key] != here[key]:
            return [f"{name} {there[key] or 'none'}, this engine has {here[key] or 'none'}"]
    if there["groups"] == here["groups"] and there["sizes"] == here["sizes"]:
        return []
    if len(there["groups"]) != len(here["groups"]):
        one, other = len(there["groups"]), len(here["groups"])
        return [f"{one} parameter groups on a rank, this engine has {other}"]
    for index, (one, other) in enumerate(zip(there["groups"], here["groups"], strict=True)):
        if one != other:
            return [f"other parameters in parameter group {index}: {_first_other(one, other)}"]
    return [f"partitions of {there['sizes']} elements, this engine has {here['sizes']}"]


def _first_other(one: Sequence[Any], other: Sequence[Any]) -> str:
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return f"{left[0]!r} {left[3]} at {position}, this engine has {right[0]!r} {right[3]}"
    return f"{len(one)}, this engine has {len(other)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
