"""Batches of any form for the first stage, and their labels for the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..errors import bug
from ..stages.stage import bind_inputs
from .loss import Labels
from .stage_module import StageModule

__all__ = ["packing_batch_fn", "split_batch"]

BatchFn = Callable[[Any], tuple[Any, Any]]


def split_batch(batch: Any, inputs: Sequence[str]) -> tuple[Any, Any]:
    """Return a batch's values for the model and its labels.

    A mapping, such as Hugging Face's data loaders give, holds the labels under "labels" and the
    values under the names of the model's ``inputs``; labels that the model takes itself are among
    them too. Anything else is a pair of both. Raises ``ValueError`` if it is neither.
    """
    if isinstance(batch, Mapping):
        values = dict(batch)
        labels = values.get("labels")
        if "labels" not in inputs:
            values.pop("labels", None)
        return values, labels
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise ValueError(
        f"a batch is a mapping or a pair (inputs, labels), this one is a {type(batch).__name__}; "
        "pass batch_fn= to make one of it"
    )


def packing_batch_fn(
    first: StageModule | None,
    inputs: Sequence[str],
    device: torch.device,
    batch_fn: BatchFn | None = None,
) -> Callable[[Any], tuple[Any, Any]]:
    """Return a function that makes (tensors for stage 0, labels) of a batch.

    ``first`` is stage 0, made with ``packed_batches``, where it is on this rank; elsewhere nothing
    is packed. ``inputs`` names the model's inputs. ``batch_fn`` makes (values, labels) of a
    batch, where values are a mapping by name, a tuple or list by position, or one value; None:
    ``split_batch``. Labels may be nested like values; their tensors go to ``device``.
    """
    batches = None if first is None else first.batches

    def pack(batch: Any) -> tuple[Any, Any]:
        values, labels = split_batch(batch, inputs) if batch_fn is None else batch_fn(batch)
        if labels is not None and not isinstance(labels, torch.Tensor):
            labels = Labels(pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), labels))
        if first is None:
            return (), labels
        if batches is None:
            raise bug("stage 0 was made for batches that are not packed")
        needed = batches.names
        if isinstance(values, Mapping):
            given, bound = inputs, bind_inputs(inputs, (), values)
        else:
            args = values if isinstance(values, (tuple, list)) else (values,)
            given = needed if len(args) == len(needed) else inputs
            bound = bind_inputs(given, args, {})
        by_name = dict(zip(given, bound, strict=True))
        packed = batches.pack(tuple(by_name[name] for name in needed), first.recomputes)
        return packed, labels

    return pack
