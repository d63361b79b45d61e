"""From a partition to a running engine in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..arguments import flag, function, one_of, seconds
from ..engine import failure
from ..engine.agree import agree
from ..engine.batch import packing_batch_fn
from ..engine.boundary_roads import BoundaryRoads, open_boundaries
from ..engine.check import frame_check
from ..engine.process_groups import align_group_names
from ..engine.same_batches import SameBatches
from ..engine.stage_module import StageModule
from ..engine.tie_check import steps_between_checks
from ..engine.unused_roads import host_group
from ..options import BoundaryOptions
from ..stages.partition import check_part
from .ahead import frames_ahead
from .batch_check import check_data_iter, drop_wrong_batches
from .checkpoint_load import loading
from .checkpoint_save import saving
from .clipping import allow_empty_grad_norm, tag_gradients, tag_parameters_for_grad_norm
from .engine import build_pipeline
from .first_step import undo_first_step
from .flags import carry_flags, owners_of, read_from_gradients
from .gradients import donate_gradients
from .guards import say_default_clipping
from .hooks import Around, Hooks, install
from .inner import correct_optimizer
from .last_inputs import comparison, take_inputs
from .loss_scale import scale_gradients
from .outputs import give_outputs
from .parameter_groups import groups_of_this_rank
from .passed_on import check_passed_on, checked_scheduler
from .phases import Phases
from .presence import Presence, clipping_on_idle_ranks
from .put_back import put_unused_back
from .shared_errors import SharedErrors, no_shared_errors
from .start import pipelines_over_all_ranks, starts_ranks
from .tied_gradients import sum_tied_gradients
from .tied_module import TiedWeights, tie_check
from .trained import require_gradients

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["initialize"]


@starts_ranks
@failure.set_up_on_all_ranks
def initialize(
    part: Partition,
    *,
    topology: Any = None,
    loss_fn: Callable[[Any, Any], torch.Tensor] | None = None,
    config: Any,
    batch_fn: Callable[[Any], tuple[Any, Any]] | None = None,
    capacity: int | None = None,
    differentiable: Literal["auto", "by-dtype"] = "auto",
    dynamic_shape: bool = False,
    read: Literal["auto", "always", "verified", "ahead"] = "auto",
    values: Literal["dynamic", "static"] = "dynamic",
    schedule: Literal["1f1b", "dualpipev"] = "1f1b",
    correct_clipping: bool = True,
    check_ties_every: int = 0,
    share_errors: bool = True,
    stall_timeout: float | None = None,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """Make an engine of ``part``; return (engine, optimizer, data loader, scheduler).

    Without ``topology`` the ranks are as many pipelines as they suffice for, without ``loss_fn``
    the loss is the model's own. Beside the work of :func:`pipeline_module`, which takes the
    arguments of the same names:

    - torch.distributed is started, if nobody has, from the environment that torchrun or DeepSpeed's
      launcher sets: gloo on the CPU, NCCL on GPUs;
    - batches may be mappings with the names of the model's inputs and the key "labels", as Hugging
      Face's data loaders give them, or pairs (inputs, labels); None, numbers and nested values are
      fine in both. ``batch_fn`` makes (inputs, labels) of any other batch, and is called
      where the engine loads one, on the first and on the last stage;
    - the last stage takes the inputs that it names, labels above all, from the batch of its own
      rank, so that they cross no boundary for it. The first and the last rank of a pipeline load
      the same micro-batches in the same order; where these inputs differ, it is a ``ValueError`` on
      all ranks, before any steps;
    - a model that was cut by :func:`pipecodec.partition` has to be the same on all ranks, and in
      the precision of ``config``. If other values cross for some kinds of its batches,
      ``dynamic_shape`` is turned on, and rank 0 logs it;
    - an error on one rank ends set-up, ``train_batch``, ``eval_batch``, ``save_checkpoint`` and
      ``load_checkpoint`` on all ranks, with its text, and all communication of
      ``torch.distributed`` with it, unless ``share_errors`` is False. So does the end of a process,
      and a rank that makes another of these calls than the others. A rank that is late is none,
      until ``stall_timeout`` seconds have passed (None: the timeout of the default process group);
    - shapes may change without ``dynamic_shape`` between training and evaluation, and where all
      ranks call ``engine.reset_activation_shape()`` between two batches;
    - frames that were not read (``read``) are checked before gradients are reduced, and at the end
      of an evaluation: if one differs from the frame it should repeat, no rank steps; all raise;
    - a value that nobody used in a micro-batch gives no gradient to the stage that sent it, instead
      of zeros; a loss that depends on nothing trainable is torch's own error in training;
    - a loss that is no scalar tensor is a ``ValueError`` on all ranks, before any steps; the
      batch's gradients are dropped, and the engine trains on;
    - weights that stages share stay equal to the last bit, whatever the number of data-parallel
      replicas, and a copy without a gradient in a step does not hang the others. Every
      ``check_ties_every`` steps, if that is not 0, a checksum of each copy is compared, and a
      difference is an error on every rank;
    - a parameter that no micro-batch of a step used, on no replica, is left alone by the optimizer,
      and one that some replicas used gets the mean of all, with ZeRO too;
    - in fp16 without ZeRO the gradient that leaves the loss is scaled, as with ZeRO;
    - gradient clipping in fp32 without ZeRO counts the parameters of all stages, unless
      ``correct_clipping`` is False (DeepSpeed counts those of the first stage). Where the
      configuration has no ``gradient_clipping``, rank 0 logs that DeepSpeed clips to 1.0;
    - ``save_checkpoint`` and ``load_checkpoint`` succeed on all ranks or on none, and compare a
      checkpoint with the engine first; ``pipecodec.deepspeed.load_checkpoint`` loads one of another
      number of stages.

    ``kwargs`` are those of ``deepspeed.initialize``, such as ``optimizer`` (also a function of the
    parameters), ``lr_scheduler`` and ``training_data``; ``model_parameters`` are by default all
    that require a gradient. Both may be over the whole model, with groups, of which each rank keeps
    its own parameters. Raises ``ValueError`` as :func:`pipeline_module` does, for a parameter in
    two groups or in no stage, where the environment does not say how to start the ranks, and where
    they do not make whole pipelines.
    """
    import deepspeed

    def describe() -> dict[str, Any]:
        nonlocal topology
        check_part(part)
        one_of("schedule", schedule, "1f1b", "dualpipev")
        function("batch_fn", batch_fn)
        flag("correct_clipping", correct_clipping)
        flag("share_errors", share_errors)
        seconds("stall_timeout", stall_timeout)
        check_passed_on(kwargs)
        if topology is None:
            topology = pipelines_over_all_ranks(len(part.stages), schedule)
        return {
            "correct_clipping": correct_clipping,
            "share_errors": share_errors,
            "check_ties_every": steps_between_checks(check_ties_every),
            "stall_timeout": stall_timeout,
        }

    agree(describe)
    parameters = [parameter for stage in part.stages for parameter in stage.parameters()]
    module, options = build_pipeline(
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
        packed_batches=True,
    )
    say_default_clipping(config)
    stages = [m for m in module.modules() if isinstance(m, StageModule)]
    given = [kwargs.get(name) for name in ("optimizer", "model_parameters", "lr_scheduler")]
    kwargs.update(groups_of_this_rank(stages, parameters, *given))
    kwargs["lr_scheduler"] = checked_scheduler(kwargs.get("lr_scheduler"))
    align_group_names()  # an optimizer may have made groups, and so may a scheduler
    initialized: tuple[Any, ...] = deepspeed.initialize(model=module, config=config, **kwargs)
    align_group_names()
    engine = initialized[0]
    same = comparison(engine, stages, compare=share_errors and schedule == "1f1b")
    engine.set_batch_fn(
        packing_batch_fn(
            next((stage for stage in stages if stage.stage_id == 0), None),
            part.input_names,
            engine.device,
            batch_fn,
            last=next((stage for stage in stages if stage.last), None),
            needed=sorted(part.liveness[0], key=part.input_names.index),
            own_loss=loss_fn is None,
            same=same,
        )
    )
    undo_first_step(engine)
    correct_optimizer(engine)
    if engine.using_bf16_optimizer:
        allow_empty_grad_norm(engine.optimizer)
    if hasattr(engine.optimizer, "fp32_groups"):  # FP16_UnfusedOptimizer
        tag_gradients(engine.optimizer)
    if correct_clipping:
        tag_parameters_for_grad_norm(module, engine.grid.get_slice_parallel_rank())
    presence = Presence(engine)
    put_unused_back(engine, presence)
    hooks = _hooks(
        engine, stages, part, options, presence, same, schedule, share_errors, check_ties_every
    )
    install(engine, hooks)
    agree(dict)  # rank 0 may end next, and with it the store that others made their groups with
    return initialized


def _hooks(
    engine: Any,
    stages: Sequence[StageModule],
    part: Partition,
    options: BoundaryOptions,
    presence: Presence,
    same: SameBatches,
    schedule: str,
    share_errors: bool,
    check_ties_every: int,
) -> Hooks:
    """Return the actions around this engine's methods, each list in its order."""
    from deepspeed.runtime.pipe import schedule as instructions

    one_way = schedule == "1f1b"
    plain = engine.optimizer is engine.basic_optimizer  # fp32 without ZeRO
    by_dtype = options.differentiable == "by-dtype"
    unread = options.may_not_read(engine.device)
    tied = isinstance(engine.module, TiedWeights)
    phases = Phases(engine, stages)
    roads = _roads(engine, part, options)
    flags = carry_flags(engine, stages, roads)
    sums = sum_tied_gradients(engine, presence) if tied else None
    shared = SharedErrors(engine) if share_errors else None
    before_collectives = [
        frame_check(engine.device, stages, tell_others=not share_errors) if unread else None,
        drop_wrong_batches(engine, stages, same, shared.meet) if shared else None,
    ]
    take = take_inputs(engine, next((stage for stage in stages if stage.last), None))
    return Hooks(
        call=shared.call if shared else no_shared_errors,
        arguments=check_data_iter,
        evaluation=give_outputs(engine, stages),
        evaluating=phases.evaluating,
        before_batch=[phases.before_batch, lambda _: same.start()],
        reset=[phases.reset],
        before_schedule=[
            shared.before_schedule if shared else None,
            engine.module.check_replaced if tied else None,
        ],
        instructions={
            instructions.ForwardPass: Around(before=[take]),
            instructions.BackwardPass: Around(
                before=[take, scale_gradients(engine), flags.before_backward],
                after=[flags.after_backward],
                failed=[flags.after_backward],
            ),
            instructions.RecvGrad: donate_gradients(engine, stages) if one_way else Around(),
            instructions.ReduceTiedGrads: Around(
                before=[
                    *before_collectives,
                    require_gradients(engine, stages) if by_dtype else None,
                    presence.agree,
                ],
                instead=sums.before_average if sums else None,
            ),
            instructions.ReduceGrads: Around(
                after=[
                    sums.after_average if sums else None,
                    presence.drop_unused if plain else None,
                ]
            ),
        },
        clip_fp32_gradients=clipping_on_idle_ranks(engine) if plain else None,
        after_schedule=[flags.after_schedule, *before_collectives],
        schedule_failed=[flags.schedule_failed],
        after_step=[tie_check(engine, check_ties_every) if tied else None],
        save_checkpoint=saving(engine, part),
        load_checkpoint=loading(engine, part),
        sizes=frames_ahead(engine, stages, roads) if options.ahead else None,
    )


def _roads(engine: Any, part: Partition, options: BoundaryOptions) -> BoundaryRoads:
    """Open the roads that this engine's boundaries need; a collective call."""
    backward = not read_from_gradients(engine)
    if not (options.ahead or backward):
        return BoundaryRoads({}, {}, {}, {})
    owners = owners_of(engine, len(part.stages))
    return open_boundaries(owners, None, host_group(), forward=options.ahead, backward=backward)
