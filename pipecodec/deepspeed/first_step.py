"""DeepSpeed's fp16 optimizers without ZeRO step once, with zeros, when they are made.

That is to allocate the state, but decay and momentum move the master weights, and counts of steps
begin at 1. In bf16 and with ZeRO nothing steps before training does.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["undo_first_step"]


def undo_first_step(engine: Any) -> None:
    """Give this engine's optimizer the master weights and the state that it would begin with."""
    from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    if isinstance(engine.optimizer, FP16_Optimizer):
        halves, masters = engine.optimizer.fp16_groups_flat, engine.optimizer.fp32_groups_flat
    elif isinstance(engine.optimizer, FP16_UnfusedOptimizer):
        halves = [half for group in engine.optimizer.fp16_groups for half in group]
        masters = [master for group in engine.optimizer.fp32_groups for master in group]
    else:
        return
    with torch.no_grad():
        for half, master in zip(halves, masters, strict=True):
            master.copy_(half)
    inner = engine.optimizer.optimizer
    inner.state.clear()
    if isinstance(inner, torch.optim.Adagrad):  # its constructor makes its state
        for group in inner.param_groups:
            for parameter in group["params"]:
                start = group["initial_accumulator_value"]
                inner.state[parameter] = {
                    "step": torch.zeros(()),
                    "sum": torch.full_like(parameter, start, memory_format=torch.preserve_format),
                }
