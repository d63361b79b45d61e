"""Compares a partition with its model: outputs and gradients, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import PartitionError
from ..stages.partition import Partition, run_local
from ..tape.batch import Batch
from ..tape.compare import equal
from ..tape.structure import tensors_in
from .outputs import kept
from .untouched import untouched

__all__ = ["verify_values"]

_SEED = 20260101
Results = tuple[list[tuple[Any, torch.Tensor]], dict[str, torch.Tensor | None], type]


def verify_values(
    model: nn.Module,
    part: Partition,
    batch: Batch,
    training: bool,
    outputs: Sequence[str] | None,
) -> str | None:
    """Raise PartitionError if a partition's outputs or gradients differ from the model's.

    `outputs` are the entries of the output that the partition keeps. The model is left as it was.
    Returns a sentence if the model differs from itself, so that
    nothing can be compared.
    """

    def stages(copied: Batch) -> Any:
        return run_local(part, **copied.inputs)

    def whole(copied: Batch) -> Any:
        return kept(copied.call(model), outputs)

    try:
        expected = _results(model, training, whole, batch)
    except Exception as error:
        raise PartitionError(
            f"the stages cannot be compared with the model, since it raises {type(error).__name__} "
            f"itself, forward or backward: {error}"
        ) from error
    try:
        found = _results(model, training, stages, batch)
    except PartitionError:
        raise
    except Exception as error:
        raise PartitionError(
            f"the stages were observed and cut, but they raise {type(error).__name__} where the "
            f"model does not: {error}"
        ) from error
    difference = _difference(expected, found)
    if difference is None:
        return None
    if _difference(expected, _results(model, training, whole, batch)) is not None:
        return (
            "two runs of the model itself differ in bits, so the partition could not be compared "
            "with it"
        )
    raise PartitionError(
        f"the stages were observed and cut, but {difference} is not the model's to the last bit; "
        f"code between the layers does more than a tape can hold (random numbers of Python, state "
        f"outside the model). verify=False accepts the partition as it is"
    )


def _results(
    model: nn.Module, training: bool, call: Callable[[Batch], Any], batch: Batch
) -> Results:
    copied = batch.copy()
    with untouched(model), torch.enable_grad():
        if model.training is not training:
            model.train(training)
        torch.manual_seed(_SEED)
        output = call(copied)
        tensors = list(tensors_in(output))
        losses = _losses(output, [tensor for _, tensor in tensors])
        if losses:
            torch.autograd.backward(losses)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        leaves = [(path, t) for path, t in tensors_in(copied.inputs) if t.is_leaf]
        gradients |= {".".join(map(str, path)): leaf.grad for path, leaf in leaves}
    return [(path, tensor.detach()) for path, tensor in tensors], gradients, type(output)


def _losses(output: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    loss = getattr(output, "loss", None)
    if isinstance(loss, torch.Tensor) and loss.requires_grad and loss.numel() == 1:
        return [loss]
    return [t.float().sum() for t in tensors if t.requires_grad and t.is_floating_point()]


def _difference(expected: Results, found: Results) -> str | None:
    (outputs, gradients, kind), (others, other_gradients, other_kind) = expected, found
    if kind is not other_kind:
        return f"the output's type ({other_kind.__name__} for {kind.__name__})"
    if [path for path, _ in outputs] != [path for path, _ in others]:
        return "the set of tensors in the output"
    for (path, one), (_, other) in zip(outputs, others, strict=True):
        if not same_bits(one, other):
            return f"the output {'.'.join(map(str, path)) or 'itself'}"
    for name, gradient in gradients.items():
        other_gradient = other_gradients[name]
        if (gradient is None) != (other_gradient is None) or (
            gradient is not None
            and other_gradient is not None
            and not same_bits(gradient, other_gradient)
        ):
            return f"the gradient of {name}"
    return None


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal; one nan equals another."""
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    if one.is_floating_point() and one.layout is torch.strided:
        return bool(torch.equal(one.nan_to_num(nan=7.25), other.nan_to_num(nan=7.25))) and bool(
            torch.equal(one.isnan(), other.isnan())
        )
    return equal(one, other)
