"""Where a pipeline ends: the last stage's output, the labels, and the loss of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .token import join_loss
from .wrapper import DeepSpeedPipeStageWrapper

__all__ = ["Labels", "loss_of"]

LossFn = Callable[[Any, Any], Any]


class Labels:
    """Labels of any form: the engine looks into tensors, tuples and lists only."""

    def __init__(self, value: Any) -> None:
        self.value = value


def loss_of(last: DeepSpeedPipeStageWrapper, loss_fn: LossFn) -> LossFn:
    """Return what the engine is to call for the loss of what the stage ``last`` returned.

    ``loss_fn`` gets the output of the stage's module, and labels of any form. The loss is tied to
    the stage's input, which it need not depend on; one that depends on nothing trainable raises
    torch's error.
    """
    last.end_in_loss()

    def loss(output: Any, labels: Any) -> Any:
        output, token = last.finish(output)
        value = loss_fn(output, labels.value if isinstance(labels, Labels) else labels)
        joined = join_loss(value, token)
        last.note_loss(value)
        return joined

    return loss
