"""Raises where nothing is trained, though leaves are differentiable by their dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ..engine.stage_module import StageModule
from ..engine.token import nothing_to_train

__all__ = ["require_gradients"]


def require_gradients(engine: Any, stages: Sequence[StageModule]) -> Callable[[], None]:
    """Return a check that raises torch's error on all ranks if no parameter got a gradient.

    All ranks call it at the end of a step. A received leaf may require a gradient for its dtype
    alone, and so does a loss that depends on nothing else. That it reaches nothing is seen once
    backward is over, of a whole step.
    """
    trained = [p for stage in stages for p in stage.mod.parameters() if p.requires_grad]

    def check() -> None:
        found = any(
            p.grad is not None or getattr(p, "grad_accum", None) is not None for p in trained
        )
        anywhere = torch.tensor([float(found)], device=engine.device)
        dist.all_reduce(anywhere)
        if anywhere.item() == 0:
            raise nothing_to_train()

    return check
