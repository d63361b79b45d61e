"""Calls between a schedule's step and the optimizer's, which all ranks make together."""

from __future__ import annotations

from typing import Any

from .pipeline import Pipeline

__all__ = ["reset", "sum_tied_gradients"]


def sum_tied_gradients(stages: Any) -> None:
    """Sum the gradients of weights that several stages share, so that their copies stay equal.

    Call it with this rank's stages (one, or a list of all), on all ranks, after the last
    ``schedule.step`` whose gradients count and before they are clipped and stepped on; an optimizer
    that steps on tied weights without it raises an error. Without tied weights it does nothing.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("sum_tied_gradients"):
        pipeline.ties.sum()


def reset(stages: Any) -> None:
    """Let the boundaries agree anew on sizes, and on the values that have gradients.

    Call it with this rank's stages (one, or a list of all), on all ranks between two batches, after
    parameters were frozen or unfrozen, or before batches of other sizes.
    """
    pipeline = Pipeline.of(stages)
    with pipeline.call("reset"):
        pipeline.reset()
