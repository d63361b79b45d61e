"""A model cut into stages: what describes it, and how to run it in one process."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .codec import Codec
from .liveness import Arg, analyze_signatures
from .stage import Stage, bind_inputs

__all__ = ["Partition", "partition_modules", "run_local"]

Outputs = str | Sequence[str] | None
_Window = tuple[int, int, tuple[torch.dtype, torch.Size, tuple[int, ...]]]


@dataclass(frozen=True)
class Partition:
    """Stages with all that an engine has to know about them.

    ``liveness`` and ``stage_id_2_arg_names`` are as in :class:`pipecodec.liveness.Liveness`.
    ``outputs[k]`` is what stage k declares to give: a list of names, one string for the whole
    value, or None. ``tie_weights`` maps a name to the (parameter path, stage id) pairs that are
    one weight, one pair per stage.
    """

    stages: list[nn.Module]
    liveness: list[list[str]]
    stage_id_2_arg_names: dict[int, list[Arg]]
    input_names: list[str]
    outputs: list[Outputs]
    tie_weights: dict[str, list[tuple[str, int]]] = field(default_factory=dict)


def partition_modules(
    stages: Sequence[nn.Module],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[Outputs] | None = None,
) -> Partition:
    """Describe hand-made stages.

    A stage takes the values that its ``forward`` names; one with a default is passed if there is
    such a value, and ``*args`` and ``**kwargs`` take nothing. `outputs[k]` names what stage k
    gives: a list of names (of the items of a tuple, or keys of a mapping), one string for the
    whole value, or None. An undeclared stage gives the string keys of the mapping it returns, or
    else its value, or the items of its tuple, to the next stage's arguments in order. The last
    stage returns the output of the model, so its entry does not matter.

    All names share one space, and a name means its latest producer. `inputs` names the model's
    inputs; None takes the parameters of stage 0 and every argument that a later stage requires
    and none before it makes, as far as the stages before it declare their outputs.

    Raises ValueError if a required argument has no source, a stage names no parameters, `outputs`
    does not fit, or stages share a weight in a form that cannot be kept equal.
    """
    stages = list(stages)
    if not stages:
        raise ValueError("there are no stages; pass at least one module")
    declared: list[Outputs] = [None] * len(stages) if outputs is None else list(outputs)
    if len(declared) != len(stages):
        raise ValueError(
            f"outputs has {len(declared)} entries for {len(stages)} stages; "
            f"give one per stage, None where nothing is declared"
        )
    names = [_names_of(k, entry) for k, entry in enumerate(declared)]
    parameters = [_parameters(k, stage) for k, stage in enumerate(stages)]
    input_names = _infer_inputs(parameters, names) if inputs is None else list(inputs)
    _check_names(input_names, "inputs")
    flow = analyze_signatures(parameters, names, input_names)
    return Partition(
        stages=stages,
        liveness=flow.liveness,
        stage_id_2_arg_names=flow.stage_id_2_arg_names,
        input_names=input_names,
        outputs=declared,
        tie_weights=_tied_weights(stages),
    )


def run_local(part: Partition, *args: Any, **kwargs: Any) -> Any:
    """Run all stages in this process, every boundary through pack and unpack.

    Takes the model's inputs by position (``part.input_names``) or by name, and returns what the
    last stage returns. Gradients flow as in the unsplit model: the tensors that cross a boundary
    are the same objects on both sides.
    """
    values: Sequence[Any] = bind_inputs(part.input_names, args, kwargs)
    for k, module in enumerate(part.stages):
        stage = Stage(part.liveness, part.stage_id_2_arg_names, k, outputs=part.outputs[k])
        env = stage.bind(values)
        positional, keyword = stage.arguments(env)
        output = module(*positional, **keyword)
        if k + 1 < len(part.stages):
            stage.name_outputs(env, output)
            codec = Codec(name=f"boundary {k}→{k + 1}")
            values = codec.unpack(codec.pack(stage.collect(env, part.liveness[k + 1])))
    return output


def _names_of(k: int, entry: Outputs) -> list[str] | None:
    if entry is None:
        return None
    names = [entry] if isinstance(entry, str) else list(entry)
    _check_names(names, f"outputs[{k}]")
    return names


def _check_names(names: list[str], where: str) -> None:
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{where}: {name!r} is not a name that a forward could take")
    if len(set(names)) != len(names):
        raise ValueError(f"{where} names a value twice: {names}")


def _parameters(k: int, stage: nn.Module) -> list[inspect.Parameter]:
    if not isinstance(stage, nn.Module):
        raise ValueError(f"stage {k} is a {type(stage).__name__}; every stage is an nn.Module")
    every = inspect.signature(stage.forward).parameters.values()
    named = [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not named:
        raise ValueError(
            f"stage {k}: the forward of {type(stage).__name__} names no parameters; "
            f"wrap it in a module whose forward names what it takes"
        )
    return named


def _infer_inputs(
    parameters: list[list[inspect.Parameter]], outputs: list[list[str] | None]
) -> list[str]:
    inputs = [p.name for p in parameters[0]]
    made: set[str] = set()
    for taken, given in zip(parameters[1:], outputs, strict=False):
        if given is None:
            break
        made.update(given)
        inputs += [
            p.name
            for p in taken
            if p.default is p.empty and p.name not in made and p.name not in inputs
        ]
    return inputs


def _tied_weights(stages: Sequence[nn.Module]) -> dict[str, list[tuple[str, int]]]:
    """Find the parameters that share memory across stages.

    Copies are the same object or have the same dtype, shape and strides at the same place of one
    storage. Of several names within a stage the first is kept.
    """
    storages: dict[int, dict[_Window, dict[int, str]]] = {}
    for stage_id, stage in enumerate(stages):
        for path, param in stage.named_parameters(remove_duplicate=False):
            storage = param.untyped_storage()._cdata  # unlike data_ptr() also set on meta
            places = storages.setdefault(storage, {}).setdefault(_window(param), {})
            places.setdefault(stage_id, path)
    tied = {}
    for windows in storages.values():
        _refuse_overlap(windows)
        for places in windows.values():
            if len(places) > 1:
                stage_id, path = next(iter(places.items()))
                tied[f"submod_{stage_id}.{path}"] = [(p, k) for k, p in places.items()]
    return tied


def _window(tensor: torch.Tensor) -> _Window:
    """Return the first byte, the end, and what else makes two views of a storage equal."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((int(n) - 1) * int(step) for n, step in steps) if tensor.numel() else -1
    end = start + (last + 1) * tensor.element_size()
    return start, end, (tensor.dtype, tensor.shape, tensor.stride())


def _refuse_overlap(windows: dict[_Window, dict[int, str]]) -> None:
    reach, owners = 0, dict[int, str]()
    for (start, end, _), places in sorted(windows.items(), key=lambda item: item[0][:2]):
        if start < min(reach, end) and not (len(places) == 1 and set(places) == set(owners)):
            raise ValueError(
                f"parameters {owners} and {places} (stage: path) share memory without being the "
                f"same tensor, such as a weight and its transpose, so they cannot be tied across "
                f"stages; use one parameter in both"
            )
        if end > reach:
            reach, owners = end, places
