"""What an evaluation gives: the loss, or the values that the model returned, whatever they are."""

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
    tensors alone. With a loss, ``ValueError`` is raised for arguments that DeepSpeed would fail on
    after the evaluation. The engine keeps its iterator of training data if an evaluation fails.
    """
    evaluate = engine.eval_batch
    signature = inspect.signature(evaluate)
    last = next((stage for stage in stages if stage.last), None)

    def losses(given: dict[str, Any]) -> Any:
        told = given["bcast_loss"] or engine.monitor.enabled
        _check(given["reduce_output"], told)
        if last is not None:
            last.scalar_losses = told
        try:
            return evaluate(**given)
        finally:
            if last is not None:
                last.scalar_losses = True

    def outputs(given: dict[str, Any]) -> Any:
        with_logits = given["return_logits"]
        given.update(reduce_output=None, return_logits=False)
        monitored, engine.monitor.enabled = engine.monitor.enabled, False  # it would tell the loss
        kept: list[Any] | None = None
        if last is not None:
            kept = last.kept = []
        try:
            evaluate(**given)
        finally:
            engine.monitor.enabled = monitored
            if last is not None:
                last.kept = None
        return (kept, kept[-1] if kept else None) if with_logits else kept

    @functools.wraps(evaluate)
    def eval_batch(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        iterator = engine.data_iterator
        try:
            return (losses if bound.arguments["compute_loss"] else outputs)(bound.arguments)
        except Exception:
            engine.set_dataiterator(iterator)
            raise

    engine.eval_batch = eval_batch


def _check(reduction: str | None, told: bool) -> None:
    if reduction is None:
        if told:
            raise ValueError(
                "reduce_output=None gives a list of losses, which only the last stage has; pass "
                "bcast_loss=False as well"
            )
    elif not isinstance(reduction, str) or reduction.lower() != "avg":
        raise ValueError(f"reduce_output={reduction!r} is no reduction: give 'avg', or None")
