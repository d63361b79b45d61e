"""Gives the last stage the inputs that it takes from the batches of its own rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..engine.loss import Labels
from ..engine.same_batches import SameBatches
from ..engine.stage_module import StageModule

__all__ = ["comparison", "take_inputs"]

_LOSS_PHASE = 1
"""The half of a DualPipeV rank's work in which rank 0 has the last stage."""


def take_inputs(engine: Any, last: StageModule | None) -> Callable[..., None] | None:
    """Return an action before a forward or backward pass; None if this rank needs none.

    The engine keeps what its batch function made of a micro-batch until that is done.
    """
    batches = None if last is None else last.last_batches
    if batches is None:
        return None

    def take(buffer_id: int, phase: int = _LOSS_PHASE) -> None:
        if phase == _LOSS_PHASE:
            labels = engine.pipe_buffers["labels"][buffer_id]
            batches.take(labels.inputs if isinstance(labels, Labels) else None)

    return take


def comparison(engine: Any, stages: Sequence[StageModule], compare: bool) -> SameBatches:
    """Return the comparison of this rank's batches with those of the pipeline's other end.

    Without ``compare`` there is nothing to compare, as under DualPipeV, where one rank has both
    ends.
    """
    local = stages[0].local
    ends = {0: 1, stages[0].total_stages - 1: -1}
    grid = engine.grid
    pipeline = grid.get_data_parallel_rank() * grid.slice_parallel_size
    return SameBatches(
        local.roots if compare else (),
        ends.get(stages[0].stage_id, 0),
        pipeline + grid.get_slice_parallel_rank(),
    )
