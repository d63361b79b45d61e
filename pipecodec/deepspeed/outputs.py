"""Returns the loss of an evaluation, or the model's outputs, of any type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from ..engine.stage_module import StageModule

__all__ = ["Evaluation", "give_outputs"]


@dataclass(frozen=True)
class Evaluation:
    """A call of ``eval_batch``.

    ``given`` holds the arguments of the engine's own method, and ``result`` turns that method's
    result into the caller's.
    """

    given: dict[str, Any]
    result: Callable[[Any], Any]


def give_outputs(
    engine: Any, stages: Sequence[StageModule]
) -> Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[Evaluation]]:
    """Let ``eval_batch(..., compute_loss=False)`` of this engine return the model's own outputs.

    Returns the context of a call, made of its arguments. On the ranks of the last stage the result
    is a list with the last stage's output for each micro-batch, elsewhere None; with
    ``return_logits`` a pair of it and the last entry. ``reduce_output`` has no say in it: DeepSpeed
    would average outputs over micro-batches and replicas, and can do so with tensors alone. With a
    loss, ``ValueError`` is raised for arguments that DeepSpeed would fail on after the evaluation.
    The engine keeps its iterator of training data if an evaluation fails.
    """
    signature = inspect.signature(engine.eval_batch)
    ending = next((stage.ending for stage in stages if stage.ending is not None), None)

    @contextmanager
    def losses(given: dict[str, Any]) -> Iterator[Evaluation]:
        told = given["bcast_loss"] or engine.monitor.enabled
        _check(given["reduce_output"], told)
        if ending is not None:
            ending.scalar_losses = told
        try:
            yield Evaluation(given, lambda loss: loss)
        finally:
            if ending is not None:
                ending.scalar_losses = True

    @contextmanager
    def outputs(given: dict[str, Any]) -> Iterator[Evaluation]:
        with_logits = given["return_logits"]
        given.update(reduce_output=None, return_logits=False)
        monitored, engine.monitor.enabled = engine.monitor.enabled, False  # it would tell the loss
        kept: list[Any] | None = None
        if ending is not None:
            kept = ending.kept = []
        try:
            yield Evaluation(
                given, lambda _: (kept, kept[-1] if kept else None) if with_logits else kept
            )
        finally:
            engine.monitor.enabled = monitored
            if ending is not None:
                ending.kept = None

    @contextmanager
    def evaluation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Evaluation]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        iterator = engine.data_iterator
        try:
            with (losses if given["compute_loss"] else outputs)(given) as found:
                yield found
        except Exception:
            engine.set_dataiterator(iterator)
            raise

    return evaluation


def _check(reduction: str | None, told: bool) -> None:
    if reduction is None:
        if told:
            raise ValueError(
                "reduce_output=None gives a list of losses, which only the last stage has; pass "
                "bcast_loss=False as well"
            )
    elif not isinstance(reduction, str) or reduction.lower() != "avg":
        raise ValueError(f"reduce_output={reduction!r} is no reduction: give 'avg', or None")
