"""The loss of a schedule: of the model's own output, and of targets of any form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..arguments import function
from ..codec import pack, unpack
from ..engine.loss import called, loss_problem
from ..engine.model_loss import model_loss
from ..engine.token import join_loss
from ..errors import CodecError
from ..stages.value_state import IMMUTABLE
from .inputs import unwrapped

__all__ = ["LastValue", "Loss", "loss"]


class LastValue:
    """The last stage's output for one micro-batch, as a schedule hands it on.

    ``token`` ties the loss to the stage's input.
    """

    def __init__(self, value: Any, token: torch.Tensor) -> None:
        self.value = value
        self.token = token

    def release(self) -> None:
        """Let go of the graph: only the values are returned to the caller."""
        self.value = _detached(self.value)
        self.token = self.token.detach()


def _detached(value: Any) -> Any:
    """Return a value whose tensors have no graph, in any container that can cross a boundary."""
    leaves, spec = pytree.tree_flatten(value)
    return pytree.tree_unflatten(map(_detached_leaf, leaves), spec)


def _detached_leaf(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if isinstance(leaf, IMMUTABLE):
        return leaf
    try:
        *tensors, frame = pack(leaf, "cpu")  # it finds those in types that pytree does not know
        return unpack([*(tensor.detach() for tensor in tensors), frame]) if tensors else leaf
    except CodecError:
        return leaf  # it crosses no boundary, and is the user's own


class Loss:
    """The loss function of a schedule whose stages were made by ``build_stage``."""

    def __init__(self, loss_fn: Callable[..., Any]) -> None:
        self._loss_fn = loss_fn

    def __call__(self, output: Any, target: Any, **kwargs: Any) -> Any:
        """Return the loss, tied to the last stage's input."""
        if not isinstance(output, LastValue):
            raise ValueError(
                f"pipecodec.pipelining.loss got a {type(output).__name__}: it is for schedules "
                f"whose stages were made by pipecodec.pipelining.build_stage"
            )
        found = called(self._loss_fn, output.value, unwrapped(target), **kwargs)
        problem = loss_problem(found)
        if problem is not None:
            raise ValueError(problem)
        joined = join_loss(found, output.token)
        output.release()
        return joined


def loss(loss_fn: Callable[..., Any] | None = None) -> Loss:
    """Wrap a loss function, which gets the model's own output, for a schedule.

    ``loss_fn(output, target)`` gets the value that the last stage returned for a micro-batch, of
    any type, and that part of the schedule's ``target``; it returns a floating-point tensor of one
    element. torch divides gradients by the number of micro-batches: let it be a mean, or give the
    schedule ``scale_grads=False``. None: the loss is that in the model's output (itself, its
    entry or attribute ``loss``, or the first item of a tuple); torch wants a ``target`` all the
    same, on the rank of the last stage. Raises ``TypeError`` for anything that cannot be called.
    """
    function("loss_fn", loss_fn)
    return Loss(model_loss if loss_fn is None else loss_fn)
