"""Cuts a model into stages, describes them, and runs them in one process."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..arguments import instance, items, names
from ..codec import Codec
from ..no_memory import has_no_memory
from .cut import Cut
from .liveness import Arg, analyze_signatures
from .model_state import ModelState, Place, copied_from, locate
from .signature import forward_parameters
from .stage import Stage, bind_inputs
from .ties import find_ties, memory_of

__all__ = ["Partition", "check_part", "partition_modules", "run_local"]

Outputs = str | Sequence[str] | None


@dataclass(frozen=True)
class Partition:
    """Holds stages, and all that an engine has to know about them.

    ``liveness`` and ``stage_id_2_arg_names`` are as in ``pipecodec.stages.liveness.Liveness``.
    ``outputs[k]`` declares the outputs of stage k: a list of names, one string for the whole
    value, or None. ``tie_weights`` maps a name to the (parameter path, stage id) pairs that are
    one weight, one pair per stage. ``model_state`` says where the model's state dict is in the
    stages, if that is known. ``cut`` tells how :func:`pipecodec.partition` cut the model, and is
    None for hand-made stages. ``model`` is the model itself where it has no memory (it is on meta,
    or fake): ``load_stage`` and ``materialize_stage`` ask it for names and initial values.
    """

    stages: list[nn.Module]
    liveness: list[list[str]]
    stage_id_2_arg_names: dict[int, list[Arg]]
    input_names: list[str]
    outputs: list[Outputs]
    tie_weights: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    model_state: ModelState | None = None
    cut: Cut | None = None
    model: nn.Module | None = field(default=None, repr=False, compare=False)

    def state_dict_to_model(
        self, stage_state_dicts: Sequence[Mapping[str, Any]], *, strict: bool = True
    ) -> dict[str, Any]:
        """Return the model's state dict, of the state dicts of all stages in order.

        Keys and their order are those of the model's own state dict, with every name of a tied
        weight. Tensors are not copied. Raises ValueError if the stages were partitioned without
        their model, lack an entry, have one that the model lacks, or have copies of one that are
        not equal to the last bit; with ``strict=False`` only for the first reason.
        """
        return self.known_model_state().to_model(stage_state_dicts, strict=strict)

    def state_dict_from_model(
        self, state_dict: Mapping[str, Any], *, strict: bool = True
    ) -> list[dict[str, Any]]:
        """Return the state dict of each stage, of the model's.

        One name of a tied weight is enough. Tensors are not copied. Raises ValueError if the stages
        were partitioned without their model, or the state dict lacks an entry, has one that the
        model lacks, or has several values for one weight; with ``strict=False`` only for the first
        reason.
        """
        return self.known_model_state().from_model(state_dict, strict=strict)

    def known_model_state(self) -> ModelState:
        """Return ``model_state``; ValueError if there is none."""
        if self.model_state is None:
            raise ValueError(
                "the stages' entries of the model's state dict are unknown; pass model= to "
                "partition_modules"
            )
        return self.model_state


def partition_modules(
    stages: Sequence[nn.Module],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[Outputs] | None = None,
    *,
    model: nn.Module | None = None,
    ties: Sequence[Sequence[Place]] = (),
) -> Partition:
    """Return hand-made stages as a partition: which values cross between them, and their ties.

    A stage takes the values that its ``forward`` names; one with a default is passed if there is
    such a value, and ``*args`` and ``**kwargs`` take nothing. Where a forward names nothing else,
    as that of ``torch.compile(stage)``, the names are those of the module that it wraps.
    `outputs[k]` names the outputs of stage k: a list of names (of a tuple's items, or keys of a
    mapping), one string for the whole value, or None. An undeclared stage gives the string keys of
    the mapping it returns, or else its value, or the items of its tuple, to the next stage's
    arguments in order. The last stage returns the output of the model, so its entry does not
    matter.

    All names share one space, and a name means its latest producer. `inputs` names the model's
    inputs; None takes the parameters of stage 0 and every argument that a later stage requires
    and none before it makes, as far as the stages before it declare their outputs.

    Parameters that are one object in several stages, or one memory, are tied. `model` is the model
    that the stages were cut from and whose parameters and buffers they hold; it lets state dicts be
    converted later, whatever becomes of the stages' tensors. A stage may be a copy of a part of it
    (``copy.deepcopy``) if its tensors have the names and values that they have in the model.
    `ties` lists weights that are one though nothing shows it, each as (parameter path, stage id)
    pairs.

    Raises TypeError for an argument that is no such object, and
    ValueError if a required argument has no source, a stage names no parameters, `outputs`
    does not fit, stages share a weight in a form that cannot be kept equal, or `ties` names a
    parameter that is not there or two of one stage.
    """
    stages = items("stages", stages, "a list of torch.nn.Module, one for each stage")
    for k, stage in enumerate(stages):
        instance(f"stages[{k}]", stage, nn.Module, "a torch.nn.Module")
    if not stages:
        raise ValueError("there are no stages; pass at least one module")
    instance("model", model, (nn.Module, type(None)), "the torch.nn.Module that was cut, or None")
    declared: list[Outputs] = [None] * len(stages)
    if outputs is not None:
        declared = items("outputs", outputs, "a list with an entry for each stage")
    if len(declared) != len(stages):
        raise ValueError(
            f"outputs has {len(declared)} entries for {len(stages)} stages; "
            f"give one per stage, None where nothing is declared"
        )
    declares = [_names_of(k, entry) for k, entry in enumerate(declared)]
    parameters = [_parameters(k, stage) for k, stage in enumerate(stages)]
    input_names = _infer_inputs(parameters, declares) if inputs is None else names("inputs", inputs)
    _check_names(input_names, "inputs")
    flow = analyze_signatures(parameters, declares, input_names)
    return Partition(
        stages=stages,
        liveness=flow.liveness,
        stage_id_2_arg_names=flow.stage_id_2_arg_names,
        input_names=input_names,
        outputs=declared,
        tie_weights=find_ties(_originals(stages, model, _ties(ties))),
        model_state=None if model is None else locate(stages, model),
        model=model if model is not None and has_no_memory(model) else None,
    )


def check_part(part: object) -> None:
    """Raise TypeError unless ``part`` is a partition."""
    made = "a Partition, as pipecodec.partition and partition_modules return it"
    instance("part", part, Partition, made)


def run_local(part: Partition, *args: Any, **kwargs: Any) -> Any:
    """Run all stages in this process, every boundary through pack and unpack of a codec.

    Each boundary keeps its codec from call to call, so that a value met again takes the short way
    here too; sizes and structures may change.

    Takes the model's inputs by position (``part.input_names``) or by name, and returns the
    last stage's result. Gradients flow as in the unsplit model: the tensors that cross a boundary
    are the same objects on both sides.
    """
    check_part(part)
    values: Sequence[Any] = bind_inputs(part.input_names, args, kwargs)
    for k, module in enumerate(part.stages):
        stage = Stage(part.liveness, part.stage_id_2_arg_names, k, outputs=part.outputs[k])
        env = stage.bind(values)
        positional, keyword = stage.arguments(env)
        output = module(*positional, **keyword)
        if k + 1 < len(part.stages):
            stage.name_outputs(env, output)
            codec = _codec_after(module, k)
            codec.names = part.liveness[k + 1]
            values = codec.unpack(codec.pack(stage.collect(env, part.liveness[k + 1])))
    return output


_codecs: WeakKeyDictionary[nn.Module, dict[int, Codec]] = WeakKeyDictionary()
"""Codecs of ``run_local``, by the stage before them; kept here since partitions are pickled."""


def _codec_after(module: nn.Module, k: int) -> Codec:
    codecs = _codecs.setdefault(module, {})
    if k not in codecs:
        codecs[k] = Codec(name=f"boundary {k}→{k + 1}", dynamic_shape=True)
    return codecs[k]


def _names_of(k: int, entry: Outputs) -> list[str] | None:
    if entry is None:
        return None
    found = [entry] if isinstance(entry, str) else names(f"outputs[{k}]", entry)
    _check_names(found, f"outputs[{k}]")
    return found


def _check_names(found: list[str], where: str) -> None:
    for name in found:
        if not name.isidentifier():
            raise ValueError(f"{where}: {name!r} is not a name that a forward could take")
    if len(set(found)) != len(found):
        raise ValueError(f"{where} names a value twice: {found}")


def _ties(ties: Sequence[Sequence[Place]]) -> list[list[Place]]:
    must = "a list of weights, each a list of pairs (parameter path, stage id)"
    found = [items("ties", weight, must) for weight in items("ties", ties, must)]
    for place in (place for weight in found for place in weight):
        if not (
            isinstance(place, (tuple, list)) and [*map(type, place)] == [str, int]  # no bool
        ):
            raise TypeError(f"ties must be {must}, but holds {place!r}")
    return found


def _parameters(k: int, stage: nn.Module) -> list[inspect.Parameter]:
    named = forward_parameters(stage)
    if not named:
        raise ValueError(
            f"stage {k}: the forward of {type(stage).__name__} names no parameters, nor does that "
            f"of a module it wraps; wrap it in a module whose forward names its arguments"
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


def _originals(
    stages: Sequence[nn.Module], model: nn.Module | None, ties: Sequence[Sequence[Place]]
) -> list[dict[str, torch.Tensor]]:
    """Return each stage's parameters by path, with the original in place of a copy."""
    originals: list[dict[str, torch.Tensor]] = []
    for stage in stages:
        source = model if model is not None and copied_from(stage, model) else stage
        paths = [path for path, _ in stage.named_parameters(remove_duplicate=False)]
        originals.append({path: source.get_parameter(path) for path in paths})
    for places in ties:
        for path, stage_id in places:
            if not (0 <= stage_id < len(stages) and path in originals[stage_id]):
                raise ValueError(f"ties: stage {stage_id} has no parameter {path!r}")
        first, *copies = [originals[stage_id][path] for path, stage_id in places]
        same = {memory_of(copy) for copy in copies}
        for parameters in originals:
            for path, parameter in parameters.items():
                if memory_of(parameter) in same:
                    parameters[path] = first
    for stage_id, parameters in enumerate(originals):
        seen: dict[Hashable, str] = {}
        for path, parameter in parameters.items():
            other = seen.setdefault(memory_of(parameter), path)
            one, two = (stages[stage_id].get_parameter(each) for each in (path, other))
            if memory_of(one) != memory_of(two):
                raise ValueError(
                    f"{other!r} and {path!r} of stage {stage_id} are two parameters, but are to be "
                    f"one weight; give the stage one parameter under both names"
                )
    return originals
