"""Where all ranks of an engine can meet: between a batch's micro-batches and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["before_collectives"]


def before_collectives(engine: Any, actions: Sequence[Callable[[], None]]) -> None:
    """Let this engine call ``actions``, in order, before the collectives that end a batch.

    That is before gradients are reduced, after which the optimizer steps, and at the end of the
    schedule, after which ranks exchange the loss.
    """
    from deepspeed.runtime.pipe import schedule

    reduce_tied_grads = engine._INSTRUCTION_MAP[schedule.ReduceTiedGrads]
    run_schedule = engine._exec_schedule

    def then_reduce(engine: Any) -> None:
        for action in actions:
            action()
        reduce_tied_grads(engine)

    def run(steps: Any) -> None:
        run_schedule(steps)
        for action in actions:
            action()

    engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, schedule.ReduceTiedGrads: then_reduce}
    engine._exec_schedule = run
