"""From a model to a partition, by observing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import items, names
from ..errors import PartitionError
from ..logger import get_logger
from ..no_memory import has_no_memory
from ..stages.cut import Cut
from ..stages.partition import Partition, partition_modules
from ..stages.split_graph import is_split_graph, partition_graph
from ..tape.batch import Batch
from ..tape.tape import Step, Tape
from ..tape.unseen import guard_unseen
from .assemble import assemble
from .balance import Balance, TooFewLayersError, choose_cuts, given_cuts
from .describe import alike, crossing, crossing_bytes, fingerprint, makers
from .examples import other_dtype
from .layers import called_modules, layer_lists, names_above_split
from .observations import Observation, Observations
from .order import sort_independent
from .outputs import keep_outputs
from .plan import call_name, make_plan
from .recompute import recompute as recomputing
from .request import Example, Verify, batch_of, check_arguments, check_model, example_of
from .verify import verify_values
from .writes import check_writes

__all__ = ["partition"]

logger = get_logger("partition")


def partition(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    examples: Sequence[Example] = (),
    n_stages: int | None = None,
    split: Sequence[str] | None = None,
    balance: Balance = "parameters",
    verify: Verify = "values",
    recompute: bool | None = None,
    outputs: Sequence[str] | None = None,
) -> Partition:
    """Cut a model into pipeline stages, each of which holds its part of the model's own modules.

    The model is run on the batch and observed above the level of its layers: which module or
    function got which values, and its results. Stages do the same again, so everything crosses
    that later layers use, and nothing else does: masks, rotary tables, router logits for the loss,
    caches and lists that layers share. Beside the given batch, one of another size, one with other
    padding (``attention_mask``) and the other mode (training or evaluation) are observed. A batch
    that takes another way through the model's Python code is an error that names the line.

    A graph that was split already (a ``Pipe`` of torch.distributed.pipelining, the result of fx's
    ``split_module``, a split program of torch.export) is taken as it is, without a batch.

    Args:
        model: as it will be trained: in its precision, with its weights (or on the meta device, or
            fake). It is left as it was. The stages hold its modules, not copies.
        args, kwargs: a batch, as ``model(*args, **kwargs)`` takes it; labels belong to it if the
            model computes its loss itself.
        examples: further batches (dicts of keyword arguments, or tuples) that take other ways, such
            as one without images.
        n_stages: the number of stages, at the layers that balance them best.
        split: the names of the modules with which the second and later stages begin, instead; a
            module that is called again and again has numbered calls ("layers.0#2" is its third).
        balance: "parameters", "time" (of the observed forward), or one weight for each stage.
        verify: "values" runs the stages and the model on each kind of batch, and compares outputs
            and gradients to the last bit; "structure" compares the observations alone, as for a
            model without memory; False compares nothing beyond batches of two sizes.
        recompute: each stage computes masks, positions and rotary tables for itself (True), or
            receives them (False). None takes whichever sends fewer bytes. Both are exact.
        outputs: the entries of the model's output to keep, such as ["loss"]; None keeps all.

    Returns:
        A partition, whose field ``cut`` says how it was cut.

    Raises:
        PartitionError: the model cannot be observed or cut; the text has all reasons
            with their lines in the model's code.
        TypeError, ValueError: an argument is no such object, or has no such value.
    """
    check_model(model)
    if is_split_graph(model):
        return _split_already(model, n_stages, split)
    check_arguments(model, n_stages, split, balance, verify, recompute)
    outputs = None if outputs is None else names("outputs", outputs)
    batch = batch_of(model, args, kwargs)
    others = [example_of(model, each) for each in items("examples", examples, "a list of batches")]
    count = len(split) + 1 if n_stages is None and split is not None else n_stages or 1
    if split is None:
        ways = layer_lists(model, called_modules(model, batch))
    else:
        ways = [names_above_split(model, split)]
    errors: list[PartitionError] = []
    limited: tuple[Partition, list[Observation]] | None = None
    for layers in ways:
        observations = Observations(model, layers)
        try:
            observed = _observe(observations, batch, others)
            tapes = [observation.tape for observation in observed]
            for tape in tapes:
                guard_unseen(tape)
                keep_outputs(tape, outputs)
                sort_independent(tape)
            first = (
                choose_cuts(model, tapes[0], layers, count, balance)
                if split is None
                else given_cuts(model, tapes[0], split)
            )
            begins = [call_name(tapes[0].steps, cut) for cut in first]
            cuts = [given_cuts(model, tape, begins) for tape in tapes]
            part = _cut(model, tapes, cuts, begins, recompute, observations)
        except PartitionError as error:
            errors.append(error)
            continue
        if not observations.limits:
            return _verified(model, part, observed, verify, outputs)
        limited = limited or (part, observed)  # other layers may allow more
    if limited is not None:
        return _verified(model, *limited, verify, outputs)
    few = [error for error in errors if isinstance(error, TooFewLayersError)]
    if len(few) == len(errors):
        raise PartitionError(str(max(few, key=lambda error: error.layers)))
    raise PartitionError(" / ".join(dict.fromkeys(map(str, errors))))


def _split_already(
    graph: nn.Module, n_stages: int | None, split: Sequence[str] | None
) -> Partition:
    part = partition_graph(graph)
    if split is not None or n_stages not in (None, len(part.stages)):
        raise ValueError(
            f"the graph is split into {len(part.stages)} stages already; leave n_stages= and "
            f"split= out, or pass the model that was split"
        )
    return part


def _observe(
    observations: Observations, batch: Batch, others: Sequence[Batch]
) -> list[Observation]:
    learned = -1
    while learned != observations.learned:  # all tapes are made anew then
        learned = observations.learned
        observations.found.clear()
        observations.notes.clear()
        observations.limits.clear()
        observations.add_kinds(batch)
        for i, other in enumerate(others):
            try:
                observations.add_kinds(other)
            except PartitionError:
                raise
            except Exception as error:
                raise PartitionError(
                    f"the model itself raises {type(error).__name__} for examples[{i}]: {error}"
                    f"{other_dtype(batch, other)}"
                ) from error
    return observations.found


def _cut(
    model: nn.Module,
    tapes: Sequence[Tape],
    cuts: Sequence[Sequence[Step]],
    begins: Sequence[str],
    recompute: bool | None,
    observations: Observations,
) -> Partition:
    sent = [make_plan(tape, steps) for tape, steps in zip(tapes, cuts, strict=True)]
    made = [recomputing(tape, plan) for tape, plan in zip(tapes, sent, strict=True)]
    prices = {
        way: crossing(tapes[0], plans[0]) for way, plans in (("send", sent), ("recompute", made))
    }
    if recompute is None:
        fewer = crossing_bytes(prices["recompute"]) < crossing_bytes(prices["send"])
        recompute = fewer or (alike(tapes, made) and not alike(tapes, sent))
    plans = made if recompute else sent
    for tape, plan in zip(tapes, plans, strict=True):
        check_writes(tape, plan)
    stages, outputs = assemble(model, tapes, plans)
    inputs = list(dict.fromkeys(name for tape in tapes for name in tape.inputs))
    part = partition_modules(stages, inputs=inputs, outputs=outputs, model=model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    cut = Cut(
        split=list(begins),
        fingerprint=fingerprint(part),
        observations=len(tapes),
        alike=alike(tapes, plans),
        notes=_notes(observations, tapes),
        makers=makers(tapes, plans),
        crossing=prices,
        recomputed=recompute,
        dtype=dtypes.pop() if len(dtypes) == 1 else None,
    )
    return dataclasses.replace(part, cut=cut)


def _verified(
    model: nn.Module,
    part: Partition,
    observed: Sequence[Observation],
    verify: Verify,
    outputs: Sequence[str] | None,
) -> Partition:
    real = not has_no_memory(model)
    notes = []
    if verify == "values" and not real:
        notes.append(
            "the model has no values (meta or fake tensors), so structures were compared, and no "
            "values"
        )
    elif verify == "values" and _rank() == 0:
        for observation in observed:
            note = verify_values(model, part, observation.batch, observation.training, outputs)
            notes += [note] if note else []
    own = set(model.modules())
    for module in nn.ModuleList(part.stages).modules():
        if module not in own:  # left in evaluation by the last comparison
            module.training = model.training
    if part.cut is not None:
        part.cut.notes.extend(dict.fromkeys(notes))
        for note in part.cut.notes:
            logger.warning("%s", note, ranks=0)
    return part


def _notes(observations: Observations, tapes: Sequence[Tape]) -> list[str]:
    notes = [*observations.notes, *(note for tape in tapes for note in tape.notes)]
    reasons: dict[str, list[str]] = {}
    for (label, dimension), reason in observations.limits.items():
        reasons.setdefault(reason, []).append(f"{label}[{dimension}]")
    for reason, sizes in reasons.items():
        told = ", ".join(sizes)
        notes.append(f"the sizes {told} are fixed, until examples= has others: {reason}")
    return list(dict.fromkeys(notes))


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
