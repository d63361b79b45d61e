"""Leaves that are differentiable by their dtype do not hide that nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from .token import nothing_to_train
from .wrapper import DeepSpeedPipeStageWrapper

__all__ = ["require_gradients"]


def require_gradients(engine: Any, stages: Sequence[DeepSpeedPipeStageWrapper]) -> None:
    """Let all ranks raise torch's error where no parameter of any stage got a gradient in a step.

    A received leaf may require a gradient for its dtype alone, and so does a loss that depends on
    nothing else. That it reaches nothing is seen once backward is over, of a whole step.
    """
    from deepspeed.runtime.pipe import schedule

    trained = [p for stage in stages for p in stage.mod.parameters() if p.requires_grad]
    reduce_tied_grads = engine._INSTRUCTION_MAP[schedule.ReduceTiedGrads]

    def check_and_reduce(engine: Any) -> None:
        found = any(
            p.grad is not None or getattr(p, "grad_accum", None) is not None for p in trained
        )
        anywhere = torch.tensor([float(found)], device=engine.device)
        dist.all_reduce(anywhere)
        if anywhere.item() == 0:
            raise nothing_to_train()
        reduce_tied_grads(engine)

    engine._INSTRUCTION_MAP = {
        **engine._INSTRUCTION_MAP,
        schedule.ReduceTiedGrads: check_and_reduce,
    }
