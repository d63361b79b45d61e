"""Makes the loss at a pipeline's end, of the last stage's output and the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import bug
from .error_text import note
from .last_batches import PackedInputs
from .model_loss import model_loss
from .stage_module import StageModule
from .token import join_loss

__all__ = ["Labels", "called", "loss_of", "loss_problem"]

LossFn = Callable[[Any, Any], Any]


class Labels:
    """Labels of any form: the engine looks into tensors, tuples and lists only.

    ``inputs`` are those of the same micro-batch that the last stage takes itself, if there are any.
    """

    def __init__(self, value: Any, inputs: PackedInputs | None = None) -> None:
        self.value = value
        self.inputs = inputs


def loss_of(last: StageModule, loss_fn: LossFn) -> LossFn:
    """Return the engine's loss function for the results of the stage ``last``.

    ``loss_fn`` gets the output of the stage's module, and labels of any form. The loss is tied to
    the stage's input, which it need not depend on; one that depends on nothing trainable raises
    torch's error. Raises ``ValueError`` for a loss that is no scalar tensor, or notes it in
    ``last.ending.wrong_losses``, where that is a list, and goes on from zero.
    """
    ending = last.ending
    if ending is None:
        raise bug("the last stage was not made to end in a loss")

    def loss(output: Any, labels: Any) -> Any:
        output, token = ending.receive(output, last.recomputes)
        value = called(loss_fn, output, labels.value if isinstance(labels, Labels) else labels)
        problem = loss_problem(value, ending.scalar_losses)
        if problem is not None:
            if ending.wrong_losses is None:
                raise ValueError(problem)
            ending.wrong_losses.append(problem)
            device = None if token is None else token.device
            value = torch.zeros((), device=device, requires_grad=torch.is_grad_enabled())
        joined = join_loss(value, token)
        ending.note_loss(joined, last.recomputes)
        return joined

    return loss


def called(loss_fn: Callable[..., Any], output: Any, labels: Any, **kwargs: Any) -> Any:
    """Return the loss; an error of ``loss_fn`` tells of its arguments."""
    try:
        return loss_fn(output, labels, **kwargs)
    except Exception as error:
        if loss_fn is not model_loss:
            note(
                error,
                f"loss_fn got the last stage's output, of type {type(output).__name__}, and the "
                f"labels, of type {type(labels).__name__}.",
            )
        raise


def loss_problem(loss: Any, scalar: bool = True) -> str | None:
    """Return the reason why the engine cannot use a loss; None if it can."""
    if not isinstance(loss, torch.Tensor):
        found = f"is a {type(loss).__name__}"
    elif not loss.is_floating_point():
        found = f"has dtype {str(loss.dtype).removeprefix('torch.')}"
    elif scalar and loss.numel() != 1:
        found = f"has shape {list(loss.shape)}"
    else:
        return None
    return (
        f"the loss {found}; return one number for a micro-batch, as a floating-point tensor of one "
        "element (loss.mean())"
    )
