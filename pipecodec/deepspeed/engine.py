"""From stages to the ``PipelineModule`` that ``deepspeed.initialize`` makes an engine of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from .. import _C
from ..arguments import described, function, one_of
from ..engine.agree import OBSERVED_MODEL, agree
from ..engine.loss import loss_of
from ..engine.model_loss import model_loss
from ..engine.process_groups import align_group_names
from ..engine.readiness import without_memory_in
from ..engine.sizes import allow_observed_sizes
from ..engine.ties import Ties, analyze_tie_ranks
from ..engine.together import raise_on_all_ranks
from ..logger import get_logger
from ..options import BoundaryOptions
from ..registry import register_framework_dialect
from ..stages.local_inputs import find_local_inputs
from ..stages.partition import check_part
from .guards import comparable, protect_frames, settings_of
from .observed import refuse_other_precision
from .stage_groups import name_groups_by_stage
from .tied_module import TiedWeights
from .wrapper import DeepSpeedPipeStageWrapper

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["build_pipeline", "deepspeed_pipe_engine", "pipeline_module"]

logger = get_logger("deepspeed")

_PURPOSE = {
    "config": "the DeepSpeed configuration, a dict or the path of a JSON file",
    "topology": "a deepspeed.pipe.ProcessTopology with an axis 'pipe'",
    "loss_fn": "a function of the last stage's output and the labels, or None if it returns a loss",
}


@register_framework_dialect("deepspeed", "pipeline_engine")
def deepspeed_pipe_engine(
    sch_metadata: Any, stage_modules: Sequence[nn.Module], **kwargs: Any
) -> Any:
    """Return a ``deepspeed.pipe.PipelineModule`` of ``stage_modules``, one per pipeline stage.

    Needs the keyword arguments ``config``, ``topology`` and ``loss_fn``; ``dynamic_shape`` and
    ``schedule`` are as in ``pipeline_module``, others are ignored. The
    parameters that carry an ``orig_shape`` are sharded over tensor-parallel ranks and are tagged
    ``tensor_model_parallel``, so that gradient clipping counts them on every rank.
    ``sch_metadata.tie_weights`` maps a key to (parameter path, stage id) pairs that are one
    weight; they are tied by ``pipe.TiedWeight`` where DeepSpeed has it, and as
    ``tied_module.TiedWeights`` says where not. Raises ``ValueError`` for a missing argument,
    for a setting that would destroy the values sent, and for tied weights that differ;
    ``RuntimeError`` for a DeepSpeed older than 0.19.8.
    """
    for name, purpose in _PURPOSE.items():
        if name not in kwargs:
            raise ValueError(f"deepspeed_pipe_engine needs {name}=: {purpose}")
    schedule, dynamic_shape = kwargs.get("schedule", "1f1b"), kwargs.get("dynamic_shape", False)
    protect_frames(
        kwargs["config"], kwargs["topology"], schedule=schedule, dynamic_shape=dynamic_shape
    )
    from deepspeed import pipe

    try:
        from deepspeed.runtime.pipe.dualpipev import DualPipeVModule
    except ModuleNotFoundError:
        from deepspeed import __version__

        raise RuntimeError(
            f"pipecodec.deepspeed needs DeepSpeed 0.19.8 or newer, this is {__version__}; "
            "run 'pip install --no-build-isolation --upgrade deepspeed'"
        ) from None

    _tag_sharded_parameters(stage_modules)
    module_class = DualPipeVModule if schedule == "dualpipev" else pipe.PipelineModule
    if module_class.__name__ == "GPT2ModelPipe":
        raise ValueError(
            "the engine takes a pipeline module whose class is named GPT2ModelPipe for one that "
            "sends an attention mask last, and casts that tensor, here the frame, to half "
            "precision; rename the class"
        )
    ties = [sorted(pairs, key=_stage_of) for pairs in sch_metadata.tie_weights.values()]
    options: dict[str, Any] = {}
    if ties and not hasattr(pipe, "TiedWeight"):
        module_class = type("TiedPipelineModule", (TiedWeights, module_class), {})
        options["ties"] = ties
    model = module_class(
        stage_modules,
        topology=kwargs["topology"],
        partition_method="uniform",
        loss_fn=kwargs["loss_fn"],
        dynamic_shape=dynamic_shape,
        **options,
    )
    name_groups_by_stage(model)
    for pairs in ties:
        logger.info("tying %s", _listed(pairs), ranks=0)
    if ties and not options:
        _register(pipe, model, ties, stage_modules, kwargs["topology"])
    return model


def pipeline_module(
    part: Partition,
    *,
    topology: Any,
    loss_fn: Callable[[Any, Any], torch.Tensor] | None,
    config: Any,
    capacity: int | None = None,
    differentiable: Literal["auto", "by-dtype"] = "auto",
    dynamic_shape: bool = False,
    read: Literal["auto", "always", "verified", "ahead"] = "auto",
    values: Literal["dynamic", "static"] = "dynamic",
    schedule: Literal["1f1b", "dualpipev"] = "1f1b",
) -> Any:
    """Return the stages of ``part`` as a module that is ready for ``deepspeed.initialize``.

    All ranks call it together, and compare their arguments.

    Args:
        part: the stages, as many as ``topology`` has along its axis "pipe"; with "dualpipev",
            where each rank holds two, twice as many.
        topology: a ``deepspeed.pipe.ProcessTopology``.
        loss_fn: takes the last stage's output and the labels; None: the loss is that output, its
            entry or attribute ``loss``, or the first item of a tuple.
        config: DeepSpeed's configuration, the one that ``deepspeed.initialize`` is given as well.
        capacity, differentiable, read, values: of every boundary's codec, see
            :class:`pipecodec.Codec`. Frames that are not read are checked in engines that
            :func:`initialize` made.
        dynamic_shape: shapes and structures may differ from micro-batch to micro-batch. In engines
            of :func:`initialize` they travel ahead of each then, from host to host; without it, or
            with ``read="always"``, the engine sends their sizes, and waits for them.
        schedule: "1f1b", that of DeepSpeed's ``PipelineEngine``, or "dualpipev".

    Raises:
        ValueError: an option has no such value, a setting would destroy the values sent,
            the number of stages does not fit, ranks were given different settings or
            configurations, a rank's own stage is on the meta device, or copies of a tied weight
            differ.
    """
    return build_pipeline(
        part,
        lambda: BoundaryOptions(
            capacity=capacity,
            differentiable=differentiable,
            dynamic_shape=dynamic_shape,
            read=read,
            values=values,
        ),
        topology=topology,
        loss_fn=loss_fn,
        config=config,
        schedule=schedule,
    )[0]


def build_pipeline(
    part: Partition,
    make_options: Callable[[], BoundaryOptions],
    *,
    topology: Any,
    loss_fn: Callable[[Any, Any], torch.Tensor] | None,
    config: Any,
    schedule: str,
    packed_batches: bool = False,
) -> tuple[Any, BoundaryOptions]:
    """Return the module of :func:`pipeline_module`, and the options that all ranks agreed on.

    With ``packed_batches`` stage 0 takes batches as :func:`.batch.packing_batch_fn` packs them, and
    the last stage takes inputs from the batch of its own rank.
    """
    options: BoundaryOptions

    def describe() -> dict[str, Any]:
        nonlocal options
        check_part(part)
        _check_topology(topology)
        function("loss_fn", loss_fn)
        options = allow_observed_sizes(part, make_options(), shapes_once=schedule == "dualpipev")
        if options.read == "ahead" and not packed_batches:
            raise ValueError(
                'read="ahead" needs pipecodec.deepspeed.initialize, which takes the place of the '
                "engine's exchange of sizes; call it, or set dynamic_shape=True"
            )
        one_of("differentiable", options.differentiable, "auto", "by-dtype")
        one_of("schedule", schedule, "1f1b", "dualpipev")
        refuse_other_precision(part, settings_of(config))
        return {
            "frame format": _C.FORMAT_VERSION,
            "torch": torch.__version__,
            **vars(options),
            "schedule": schedule,
            "whether there is a loss_fn": loss_fn is not None,
            "the topology": {axis: topology.get_dim(axis) for axis in topology.axes},
            "the number of stages": len(part.stages),
            OBSERVED_MODEL: None if part.cut is None else part.cut.fingerprint,
            "the values that cross each boundary": part.liveness,
            "tied weights": part.tie_weights,
            **comparable(config),
        }

    agree(describe)
    count = len(part.stages)
    wanted = topology.get_dim("pipe") * (2 if schedule == "dualpipev" else 1)
    if count != wanted:
        two = ", two on each rank" if schedule == "dualpipev" else ""
        raise ValueError(f"the topology has {wanted} pipeline stages{two}, the partition {count}")
    pipeline = settings_of(config).get("pipeline", {})
    recomputes = pipeline.get("activation_checkpoint_interval", 0) > 0
    own = topology.get_coord(torch.distributed.get_rank()).pipe
    both = {own, count - 1 - own} if schedule == "dualpipev" else {own}
    raise_on_all_ranks(without_memory_in(part, both))
    align_group_names()
    local = None
    if packed_batches:
        local = find_local_inputs(part.liveness, part.stage_id_2_arg_names, part.outputs)
    stages = [
        DeepSpeedPipeStageWrapper(
            stage,
            stage_id,
            f"submod_{stage_id}",
            count,
            part.liveness,
            part.stage_id_2_arg_names,
            outputs=part.outputs[stage_id],
            recomputes=recomputes,
            options=options,
            packed_batches=packed_batches,
            in_loss=True,
            local=local,
        )
        for stage_id, stage in enumerate(part.stages)
    ]
    module = deepspeed_pipe_engine(
        part,
        stages,
        topology=topology,
        loss_fn=loss_of(stages[-1], model_loss if loss_fn is None else loss_fn),
        config=config,
        dynamic_shape=options.dynamic_shape,
        schedule=schedule,
    )
    return module, options


def _check_topology(topology: Any) -> None:
    if "pipe" not in getattr(topology, "axes", ()):
        raise TypeError(f"topology must be {_PURPOSE['topology']}, not {described(topology)}")


def _tag_sharded_parameters(stage_modules: Sequence[nn.Module]) -> None:
    sharded = [
        parameter
        for module in stage_modules
        for parameter in module.parameters()
        if parameter.device.type != "meta" and hasattr(parameter, "orig_shape")
    ]
    for parameter in sharded:
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    logger.info("tagged %d sharded parameters as tensor_model_parallel", len(sharded), ranks=0)


def _stage_of(pair: tuple[str, int]) -> int:
    return pair[1]


def _register(
    pipe: Any, model: Any, ties: Ties, stage_modules: Sequence[nn.Module], topology: Any
) -> None:
    """Hand every group of tied weights to the DeepSpeed that ties them itself."""
    rank = torch.distributed.get_rank()
    all_ranks, all_stages = analyze_tie_ranks(ties, topology)
    for pairs, groups, stages in zip(ties, all_ranks, all_stages, strict=True):
        if len(set(stages)) != len(stages):
            raise ValueError(f"two copies of a tied weight are in one stage: {_listed(pairs)}")
        module, weight = None, ""
        for path, stage in pairs:
            if any(rank in group and stages[group.index(rank)] == stage for group in groups):
                owner, _, weight = path.rpartition(".")
                module = stage_modules[stage].mod.get_submodule(owner)  # type: ignore[union-attr]
        key = pairs[0][0].replace(".", "_")  # nn.ModuleDict takes no dot in a key
        model.register_tied_weights(pipe.TiedWeight(key, groups, weight, module))


def _listed(pairs: list[tuple[str, int]]) -> str:
    return ", ".join(f"{path} (stage {stage})" for path, stage in pairs)
