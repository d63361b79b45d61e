"""A batch in which a loss was no scalar is dropped on all ranks, and the engine goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..engine.stage_module import StageModule
from ..engine.together import raise_on_all_ranks

__all__ = ["drop_wrong_losses"]


def drop_wrong_losses(
    engine: Any, stages: Sequence[StageModule], meet: Callable[[bool], bool]
) -> Callable[[], None]:
    """Return a check that raises ``ValueError`` on all ranks if a loss was no scalar tensor.

    All ranks call it before gradients are reduced; ``meet(own)`` tells whether any rank has one.
    Until then the last of the ``stages`` goes on from a loss of zero, so that no rank waits. The
    gradients are dropped: the next batch trains as if this one had not been.
    """
    problems: list[str] = []
    for stage in stages:
        if stage.ending is not None:
            stage.ending.wrong_losses = problems

    def check() -> None:
        if not meet(bool(problems)):
            return
        problem = problems[0] if problems else None
        if torch.is_grad_enabled():
            engine.zero_grad()
            if engine.optimizer is not engine.basic_optimizer:
                engine.optimizer.zero_grad()
            engine.timers("train_batch").reset()
        raise_on_all_ranks(problem)

    return check
