"""In fp16 without ZeRO the gradients carry the loss scale that the optimizer takes out of them.

DeepSpeed's engine scales the loss for its ZeRO optimizers only, and calls no ``backward`` of the
others, which would scale it: ``FP16_Optimizer`` and ``FP16_UnfusedOptimizer`` then divide by a
scale that nobody multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["scale_gradients"]


def scale_gradients(engine: Any) -> Callable[..., None] | None:
    """Return a function that scales the gradient of a loss before its backward pass.

    None if this engine's optimizer does not expect it. The loss that is reported is not scaled. The
    scale is that of the moment at which backward starts.
    """
    from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    if not isinstance(engine.optimizer, (FP16_Optimizer, FP16_UnfusedOptimizer)):
        return None
    scaling = engine.optimizer.loss_scale_config

    def scale(buffer_id: int, **phase: int) -> None:
        if not phase and engine.is_last_stage():
            engine.loss = _Scale.apply(engine.loss, scaling.cur_scale)  # type: ignore[no-untyped-call]
        elif phase and engine._is_loss_stage(**phase):
            losses = engine.pipe_buffers["losses"]
            losses[buffer_id] = _Scale.apply(losses[buffer_id], scaling.cur_scale)  # type: ignore[no-untyped-call]

    return scale


class _Scale(torch.autograd.Function):
    """Hands on a loss, and a gradient times the scale."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * ctx.scale, None
