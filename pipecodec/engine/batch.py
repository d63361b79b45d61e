"""Batches of any form for the first stage, and their labels and inputs for the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import bug
from ..stages.signature import forward_parameters
from ..stages.stage import Absent, bind_inputs
from .loss import Labels
from .same_batches import SameBatches
from .stage_module import StageModule

__all__ = ["packing_batch_fn", "split_batch"]

BatchFn = Callable[[Any], tuple[Any, Any]]

_LABELS = "labels"


def split_batch(batch: Any, inputs: Sequence[str]) -> tuple[Any, Any]:
    """Return a batch's values for the model and its labels.

    A mapping, such as Hugging Face's data loaders give, holds the labels under "labels" and the
    values under the names of the model's ``inputs``; labels that the model takes itself are among
    them too. Anything else is a pair of both. Raises ``ValueError`` if it is neither.
    """
    if isinstance(batch, Mapping):
        values = dict(batch)
        labels = values.get(_LABELS)
        if _LABELS not in inputs:
            values.pop(_LABELS, None)
        return values, labels
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if batch is None:
        raise ValueError(
            "there is no batch; give train_batch an iterator, or initialize training_data="
        )
    raise ValueError(
        f"a batch is a mapping or a pair (inputs, labels), this one is a {type(batch).__name__}; "
        "pass batch_fn= to make one of it"
    )


def packing_batch_fn(
    first: StageModule | None,
    inputs: Sequence[str],
    device: torch.device,
    batch_fn: BatchFn | None = None,
    *,
    last: StageModule | None = None,
    needed: Sequence[str] | None = None,
    own_loss: bool = False,
    same: SameBatches | None = None,
) -> Callable[[Any], tuple[Any, Any]]:
    """Return a function that makes (tensors for stage 0, labels) of a batch.

    ``first`` is stage 0, made with ``packed_batches``, where it is on this rank; elsewhere nothing
    is packed for it. ``last`` is the last stage, where it is on this rank: the inputs that it takes
    from its own batch go with the labels. ``inputs`` names the model's inputs, and ``needed`` those
    that any stage takes, None: all that stage 0 does. ``batch_fn`` makes (values, labels) of a
    batch, where values are a mapping by name, a tuple or list by position (all inputs, or all that
    are needed), or one value; None: ``split_batch``. Labels may be nested like values; their
    tensors go to ``device``. With ``own_loss`` the model makes its loss: labels are an input of it,
    also those of a pair, and nothing else; labels that are no input, though the last stage's
    forward has them, are a ``ValueError``: it would train without them. ``same`` compares the
    batches of both stages.
    """
    own = None if last is None else last.last_batches
    missed = last is not None and _LABELS not in inputs and _takes_labels(last.mod)

    def pack(batch: Any) -> tuple[Any, Any]:
        values, labels = split_batch(batch, inputs) if batch_fn is None else batch_fn(batch)
        if own_loss and missed and labels is not None:
            raise ValueError(
                f"the batch has labels, and the last stage would run without them: its forward has "
                f"labels, which are none of the partition's inputs, {list(inputs)}; name them in "
                f"inputs= of partition_modules, or pass loss_fn="
            )
        packed: tuple[torch.Tensor, ...] = ()
        taken = None
        if first is not None or own is not None:
            by_name = _bound(values, inputs, _needed(first, needed))
            if own_loss and labels is not None and by_name.get(_LABELS) is Absent.ABSENT:
                by_name[_LABELS] = labels
            if same is not None:
                same.note(by_name)
            if first is not None:
                packed = _packed(first, by_name)
            if own is not None:
                taken = own.pack(by_name, device)
        if own_loss:
            labels = None
        if taken is not None or not (labels is None or isinstance(labels, torch.Tensor)):
            labels = pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), labels)
            labels = Labels(labels, taken)
        return packed, labels

    return pack


def _takes_labels(module: nn.Module) -> bool:
    return any(parameter.name == _LABELS for parameter in forward_parameters(module))


def _bound(values: Any, inputs: Sequence[str], needed: Sequence[str]) -> dict[str, Any]:
    """Return the model's inputs by name, of the values of a batch; ABSENT where there is none."""
    if isinstance(values, Mapping):
        return dict(zip(inputs, bind_inputs(inputs, (), values), strict=True))
    args = values if isinstance(values, (tuple, list)) else (values,)
    names = needed if len(args) == len(needed) else inputs
    absent = dict.fromkeys(inputs, Absent.ABSENT)
    return {**absent, **dict(zip(names, bind_inputs(names, args, {}), strict=True))}


def _needed(first: StageModule | None, needed: Sequence[str] | None) -> Sequence[str]:
    if needed is not None:
        return needed
    return () if first is None or first.batches is None else first.batches.names


def _packed(first: StageModule, by_name: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    batches = first.batches
    if batches is None:
        raise bug("stage 0 was made for batches that are not packed")
    packed = batches.pack(tuple(by_name[name] for name in batches.names))
    first.expect(packed[-1] if packed[-1].is_cpu else None)
    return packed
