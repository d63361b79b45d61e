"""Gives a stage its initial values, or those buffers that no checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..arguments import device_of, whole_number
from ..no_memory import without_memory
from ..stages.partition import Partition
from .compute import compute
from .place import put
from .slots import Slot, Stage

__all__ = ["buffers_of", "materialize_stage"]


def materialize_stage(
    part: Partition,
    stage: int,
    *,
    device: torch.device | str = "cpu",
    seed: int | None = None,
) -> nn.Module:
    """Give a stage's parameters and buffers memory and initial values; return the stage.

    ``part`` was cut from a model on meta or of fake tensors. Only the tensors of this stage that
    have no memory yet get it, on ``device``; others keep their values (a constructor may have made
    them in spite of ``torch.device("meta")``). The stage stays the same object.

    A module is initialised as its constructor and its model do it: by its ``reset_parameters``,
    then by ``_init_weights`` of the innermost model around it that has this method, as those of
    transformers do. Values have the same distribution as in the whole model, and are others: they
    depend on ``seed`` (by default ``torch.initial_seed()``, the last one given to
    ``torch.manual_seed``), on the modules' names in the model, on dtype and kind of device, and on
    nothing else. So they are the same in whatever stages the model is cut, and the copies of a
    tied weight, which is initialised under the first of its names, are equal to the last bit on
    all ranks that have the same seed. The random state stays as it was.

    Raises ValueError, naming all of them at once, for tensors that no initialisation writes to:
    such as one that a constructor fills and ``reset_parameters`` does not. Raises TypeError or
    ValueError for an argument that is no such object or has no such value.
    """
    own = Stage(part, stage)
    where = device_of("device", device)
    if seed is not None:
        whole_number("seed", seed, "an int, or None")
    seed = torch.initial_seed() if seed is None else seed
    todo, copies = _to_fill(own, where)
    targets = [own.model_slot(slot) for slot in todo]
    values = compute(own.model, targets, where, seed=seed, fill=_unset)
    unset = [slot for slot, value in zip(todo, values, strict=True) if not _written(value)]
    unset += _not_set_again(own, todo, values, where, seed)
    problems = _said(
        unset,
        "nothing writes to it, or not to all of it; give {owner} a method reset_parameters() that "
        "does",
    )
    problems += _hidden(own)
    if problems:
        raise ValueError(
            f"stage {stage} cannot be initialised without the whole model: " + "; ".join(problems)
        )
    put(own, dict(zip(todo, values, strict=True)) | copies, where)
    return own.module


def buffers_of(
    own: Stage, todo: Sequence[Slot], device: torch.device
) -> tuple[dict[Slot, torch.Tensor], list[str]]:
    """Return the values of buffers that no checkpoint holds, and why some cannot be computed."""
    try:
        found = determined(own.model, [own.model_slot(slot) for slot in todo], device)
    except ValueError as error:
        return {}, [*_hidden(own), str(error)]
    values = {
        slot: value for slot, (_, value) in zip(todo, found, strict=True) if value is not None
    }
    problems = _said(
        [slot for slot in todo if slot not in values],
        "it is in no checkpoint and cannot be computed from the modules: {owner} fills it when it "
        "is constructed; build the model with this buffer in memory, or give the module a method "
        "reset_parameters() that fills it",
    )
    return values, problems + _hidden(own)


def determined(
    model: nn.Module, todo: Sequence[Slot], device: torch.device
) -> list[tuple[Slot, torch.Tensor | None]]:
    """Return the values that initialisation determines, None for tensors that it does not.

    They are computed twice, from other contents and with another seed: a difference tells.
    """
    if not todo:
        return []
    first = compute(model, todo, device, seed=0, fill=lambda _: 0)
    second = compute(model, todo, device, seed=1, fill=lambda _: 1)
    return [
        (slot, one if _equal(one, two) else None)
        for slot, one, two in zip(todo, first, second, strict=True)
    ]


def _to_fill(own: Stage, device: torch.device) -> tuple[list[Slot], dict[Slot, torch.Tensor]]:
    """Return a place of each tensor without memory, and the copies here that have values."""
    todo, copies = [], {}
    for slot in own.tensors():
        if without_memory(slot.tensor):
            copy = next((c for c in own.copies(slot) if c.device == device), None)
            if copy is None:
                todo.append(slot)
            else:
                copies[slot] = copy
    return todo, copies


def _unset(tensor: torch.Tensor) -> float:
    return float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0


def _written(value: torch.Tensor) -> bool:
    floating = value.is_floating_point() or value.is_complex()
    return not (floating and bool(value.isnan().any()))


def _not_set_again(
    own: Stage,
    todo: Sequence[Slot],
    values: Sequence[torch.Tensor],
    device: torch.device,
    seed: int,
) -> list[Slot]:
    """Compute tensors of integers again from other contents, as no value of theirs means unset."""
    whole = [
        (slot, value)
        for slot, value in zip(todo, values, strict=True)
        if not (value.is_floating_point() or value.is_complex())
    ]
    if not whole:
        return []
    targets = [own.model_slot(slot) for slot, _ in whole]
    again = compute(own.model, targets, device, seed=seed, fill=lambda _: 1)
    return [
        slot for (slot, value), other in zip(whole, again, strict=True) if not _equal(value, other)
    ]


def _said(places: Sequence[Slot], reason: str) -> list[str]:
    """Return a sentence for each kind of tensor; those of many layers are one kind."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for slot in places:
        kinds.setdefault((type(slot.module).__name__, slot.name), []).append(slot.path)
    return [
        f"{paths[0]}{f' (and {len(paths) - 1} like it)' if len(paths) > 1 else ''}: "
        + reason.format(owner=owner)
        for (owner, _), paths in kinds.items()
    ]


def _hidden(own: Stage) -> list[str]:
    return [
        f"{name} holds tensors without memory in a container; make them buffers"
        for name in own.hidden()
    ]


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (one, other)]
    return torch.equal(*bits)
