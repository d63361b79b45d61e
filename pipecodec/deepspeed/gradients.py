"""The gradient that the engine received becomes the leaf's, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import _C
from .wrapper import DeepSpeedPipeStageWrapper

__all__ = ["give_gradients_away"]


def give_gradients_away(engine: Any, stages: Sequence[DeepSpeedPipeStageWrapper]) -> None:
    """Let what the ``engine`` receives in backward belong to the ``stages`` of this rank.

    It would receive the next gradient into the same buffer, by when this one may have become a
    parameter's ``.grad``. So it forgets the buffer, and gets it back when the backward pass is over
    if nothing else holds its memory then; else it allocates another one.
    """

    def take(gradient: torch.Tensor) -> bool:
        received, kept = engine.grad_layer, engine._grad_layer_buf
        if not isinstance(received, list) or len(received) != 1:
            return False
        if received[0].data_ptr() != gradient.data_ptr():
            return False
        engine.grad_layer, engine._grad_layer_buf = None, []

        def give_back() -> None:
            if kept and kept[0] is received[0] and _C.holders(received[0]) == 1:
                engine.grad_layer, engine._grad_layer_buf = received, kept

        torch.autograd.Variable._execution_engine.queue_callback(give_back)
        return True

    for stage in stages:
        if stage.outgoing is not None:
            stage.outgoing.take_gradient = take
