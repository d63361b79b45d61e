"""Builds a stage of a partition for torch's schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from ..arguments import device_of, flag, one_of, seconds, whole_number
from ..engine.readiness import refuse_other_dtype, without_memory_in
from ..engine.sizes import allow_observed_sizes
from ..engine.watcher import watcher
from ..options import BoundaryOptions
from ..stages.partition import check_part

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from ..stages.partition import Partition

__all__ = ["build_stage"]

_LOWEST = (2, 13)
"""The first torch whose stages agree anew when training and evaluation take turns."""


def build_stage(
    part: Partition,
    stage_index: int,
    device: torch.device | str | int | None = None,
    group: Any = None,
    *,
    capacity: int | None = None,
    differentiable: Literal["auto", "by-dtype"] = "auto",
    dynamic_shape: bool = False,
    read: Literal["auto", "always", "verified", "ahead"] = "auto",
    values: Literal["dynamic", "static"] = "dynamic",
    share_errors: bool = True,
    stall_timeout: float | None = None,
) -> PipelineStage:
    """Return stage ``stage_index`` of ``part`` for a schedule of torch.distributed.pipelining.

    Each rank builds its own stages, one or several, as the schedule places them, and gives them to
    any schedule; its loss function is wrapped: ``loss_fn=pipecodec.pipelining.loss(loss_fn)``. The
    ranks compare their settings within the first call that they make together.

    - ``schedule.step(*args, **kwargs, target=...)`` takes the model's own inputs on the rank of the
      first stage; others need none. torch splits tensors along their first dimension; see
      ``whole`` and ``per_sample`` for other inputs. The target goes in on the rank of the last
      stage. There the result is a list with the model's value for each micro-batch.
    - Sizes are those of the first micro-batch, apart in training and evaluation, and for each
      schedule, unless ``dynamic_shape`` is set; ``pipecodec.pipelining.reset`` forgets them.
    - An error in a step on one rank is raised on all, as a ``RemoteError`` with its text; their
      communication ends with it, unless ``share_errors`` is False. For this all ranks, those of
      other pipelines too, make the same calls in the same order.
    - After a step of training call ``sum_tied_gradients`` if stages share weights, and clip with
      ``clip_grad_norm_``.

    Args:
        part: hand-made stages, or those that ``partition`` cut. The stage's module is
            ``part.stages[stage_index]``; put it there wrapped (DDP, compile), or apply
            ``fully_shard`` to it, before.
        stage_index: from 0.
        device: where the stage runs, and its module is moved; None: where its parameters are.
        group: the process group of one pipeline; None: all ranks.
        capacity, differentiable, read, values: of every boundary's codec, see
            :class:`pipecodec.Codec`.
        dynamic_shape: sizes and structures may differ from micro-batch to micro-batch; they travel
            ahead of each then, from host to host.
        share_errors: tell all ranks of an error on one.
        stall_timeout: seconds after which a rank that did not come to a step counts as failed;
            None: the timeout of the default process group.

    Raises:
        TypeError: an argument is no such object.
        RuntimeError: this torch is older than 2.13.
        ValueError: torch.distributed is not initialized, ``group`` has more ranks than there are
            stages, there is no such stage, it has no memory yet (meta), it has another precision
            than the model that was observed, or an option has no such value.
    """
    if _version() < _LOWEST:
        raise RuntimeError(
            f"pipecodec.pipelining needs torch {'.'.join(map(str, _LOWEST))} or newer, this is "
            f"{torch.__version__}; upgrade torch, or use pipecodec.deepspeed"
        )
    check_part(part)
    whole_number("stage_index", stage_index, "the number of a stage")
    flag("share_errors", share_errors)
    seconds("stall_timeout", stall_timeout)
    if not dist.is_initialized():
        raise ValueError(
            "torch.distributed is not initialized: call torch.distributed.init_process_group "
            "first, in processes that torchrun started"
        )
    ranks = dist.get_world_size(group)
    if ranks > len(part.stages):
        raise ValueError(
            f"{ranks} ranks are too many for one pipeline of {len(part.stages)} stages; start "
            f"fewer processes, or give each pipeline's ranks as group="
        )
    if share_errors:
        watcher()  # so that the others learn of it if this process ends before its first step
    if not 0 <= stage_index < len(part.stages):
        raise ValueError(
            f"stage_index={stage_index}: the partition has the stages 0 to {len(part.stages) - 1}"
        )
    one_of("differentiable", differentiable, "auto", "by-dtype")
    problem = without_memory_in(part, {stage_index})
    if problem is not None:
        raise ValueError(problem)
    module = part.stages[stage_index]
    where = _device_of(module) if device is None else device_of("device", device)
    module.to(where)
    refuse_other_dtype(part, stage_index)
    options = BoundaryOptions(
        capacity=capacity,
        differentiable=differentiable,
        dynamic_shape=dynamic_shape,
        read=read,
        values=values,
    )
    from .pipeline import Settings
    from .torch_stage import CodecStage  # knows torch's private parts

    settings = Settings(part, allow_observed_sizes(part, options), share_errors, stall_timeout)
    return CodecStage(settings, stage_index, where, group)


def _version() -> tuple[int, ...]:
    return tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])


def _device_of(module: nn.Module) -> torch.device:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
