"""The doctor: runs a partition on a batch and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import instance, items, whole_number
from ..stages.partition import Partition, check_part
from .facts import Boundary, Problem, Report
from .local_run import measure
from .memory import check_optimizer, stage_reports
from .observed import Batch, observe
from .problems import judge_stages
from .schedule import schedule_of
from .unseen import boundaries_of_cut

__all__ = ["doctor"]


def doctor(
    part: Partition,
    *args: Any,
    more: Sequence[Mapping[str, Any] | Sequence[Any]] = (),
    micro_batches: int | None = None,
    optimizer: str | int = "adamw",
    **kwargs: Any,
) -> Report:
    """Report the values that cross between stages, their cost, and all that will fail.

    The stages are run in this process on the given batch, and left as they were: buffers,
    ``.grad``, train or eval mode, random state. Where they have no values (on the meta device, or
    fake), or no batch is given, nothing is run, and the report says so.

    Args:
        part: stages made by hand, or cut by ``partition``.
        args, kwargs: a micro-batch, as ``run_local`` takes it; ``labels`` that the model does not
            take, but a loss function would, are left out.
        more: further micro-batches, each a dict of keyword arguments or a tuple, of other sizes or
            kinds: sizes and numbers that differ between them are told, and are a problem where the
            engine's shapes are static.
        micro_batches: of the schedule whose bubble is told; None takes 4 for each stage.
        optimizer: "sgd", "momentum", "adagrad", "rmsprop", "lion", "muon", "adam", "adamw", "lamb",
            or the number of states that an optimizer keeps for each element of a weight.

    Returns:
        A report: ``str(report)`` is a table, ``report.to_dict()`` is fit for JSON,
        ``report.problems`` lists (stage, fault, remedy), all of them and not the first alone.

    Raises:
        ValueError: `optimizer` is unknown, or `micro_batches` is not positive.
        TypeError: the batch has not the model's arguments, or an argument is no such object.
    """
    check_part(part)
    name, states = check_optimizer(optimizer)
    m = 4 * len(part.stages) if micro_batches is None else micro_batches
    whole_number("micro_batches", m, "a positive number", 1)
    others = [_split(each) for each in items("more", more, "a list of micro-batches")]
    cut = part.cut
    notes = list(cut.notes) if cut is not None else []
    boundaries: list[Boundary] = []
    problems: list[Problem] = []
    seconds: list[float] = []
    if unreal := _unreal(part):
        notes.append(f"nothing was run: {unreal}; parameters, memory and the cut are known alone")
        boundaries = boundaries_of_cut(part)
    elif not args and not kwargs and part.input_names:
        notes.append("nothing was run: no batch was given")
        boundaries = boundaries_of_cut(part)
    else:
        batches = [_batch(part, each) for each in ((args, kwargs), *others)]
        boundaries, problems, found = observe(part, batches)
        notes += found
        seconds = measure(part, *batches[0])
    stages = stage_reports(part, states, seconds or None)
    problems += judge_stages(part, stages)
    return Report(
        stages=stages,
        boundaries=tuple(boundaries),
        schedule=schedule_of(len(part.stages), m, seconds),
        optimizer=name,
        problems=sorted(problems, key=lambda each: (each.stage is None, each.stage or 0)),
        notes=notes,
    )


def _split(batch: Mapping[str, Any] | Sequence[Any]) -> Batch:
    if isinstance(batch, Mapping):
        return (), batch
    must = "a list of micro-batches, each a dict of keyword arguments or a tuple"
    instance("more", batch, (tuple, list), must, " in it")
    return batch, {}


def _batch(part: Partition, batch: Batch) -> Batch:
    """Return a batch without labels that go to the loss function instead of the model."""
    args, kwargs = batch
    spare = "labels" in kwargs and "labels" not in part.input_names
    return args, {key: value for key, value in kwargs.items() if not (spare and key == "labels")}


def _unreal(part: Partition) -> str | None:
    """Tell why the stages cannot be run."""
    for k, stage in enumerate(part.stages):
        for tensor in [*stage.parameters(), *stage.buffers()]:
            if tensor.is_meta:
                return f"stage {k} is on the meta device"
            if getattr(tensor, "fake_mode", None) is not None:
                return f"stage {k} holds fake tensors"
    return None
