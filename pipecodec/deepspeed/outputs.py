"""An evaluation without a loss gives the values that the model returned, whatever they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from .wrapper import DeepSpeedPipeStageWrapper

__all__ = ["give_outputs"]


def give_outputs(engine: Any, stages: Sequence[DeepSpeedPipeStageWrapper]) -> None:
    """Let ``eval_batch(..., compute_loss=False)`` of this engine return the model's own outputs.

    On the ranks of the last stage it is a list with the last stage's output for each micro-batch,
    elsewhere None; with ``return_logits`` a pair of it and the last entry. ``reduce_output`` has no
    say in it: DeepSpeed would average outputs over micro-batches and replicas, and can do so with
    tensors alone.
    """
    evaluate = engine.eval_batch
    signature = inspect.signature(evaluate)
    last = next((stage for stage in stages if stage.last), None)

    @functools.wraps(evaluate)
    def eval_batch(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.arguments["compute_loss"]:
            return evaluate(*args, **kwargs)
        with_logits = bound.arguments["return_logits"]
        bound.arguments.update(reduce_output=None, return_logits=False)
        monitored, engine.monitor.enabled = engine.monitor.enabled, False  # it would tell the loss
        outputs: list[Any] | None = None
        if last is not None:
            outputs = last.kept = []
        try:
            evaluate(*bound.args, **bound.kwargs)
        finally:
            engine.monitor.enabled = monitored
            if last is not None:
                last.kept = None
        return (outputs, outputs[-1] if outputs else None) if with_logits else outputs

    engine.eval_batch = eval_batch
