"""Judges the stages: parameters, balance, and weights that no stage holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..stages.partition import Partition
from .facts import Problem, StageReport

__all__ = ["IMBALANCE", "judge_stages"]

IMBALANCE = 1.5
"""A stage's time or memory, as a multiple of the mean, from which it is a problem."""

SHORTEST = 1e-3
"""Seconds of the slowest forward below which times say nothing about balance."""

SMALLEST = 2**20
"""Bytes of the largest stage below which memory is no matter."""


def judge_stages(part: Partition, stages: Sequence[StageReport]) -> Iterator[Problem]:
    """Yield all problems that show without a look at a value."""
    for stage in stages:
        if not stage.parameters:
            yield Problem.warning(
                stage.index,
                "it has no parameter: a rank that trains nothing",
                "cut elsewhere (split=, balance=); on an engine initialize adds a parameter of "
                "one element, without which DeepSpeed fails (optimizer got an empty parameter "
                "list)",
            )
        elif stage.frozen:
            yield Problem.warning(
                stage.index,
                "none of its parameters is trainable",
                "right for a frozen base model: initialize adds a parameter of one element, "
                "without which DeepSpeed fails, and the stage may hold more layers than others; "
                "else set requires_grad",
            )
    yield from _imbalance(stages)
    if part.model_state is not None:
        lost = [key for key, places in part.model_state.places.items() if not places]
        if lost:
            yield Problem(
                None,
                f"no stage holds {', '.join(map(repr, lost))} of the model",
                "give it to a stage, or it is neither trained nor saved",
            )
    cut = part.cut
    if cut is not None and cut.observations > 1 and not cut.alike:
        yield Problem.warning(
            None,
            f"it was observed in {cut.observations} ways (such as padded and full batches), in "
            f"which other values cross",
            "initialize turns dynamic_shape on; give batches of one kind to do without it",
        )


def _imbalance(stages: Sequence[StageReport]) -> Iterator[Problem]:
    seconds = [stage.seconds or 0.0 for stage in stages]
    if max(seconds) >= SHORTEST:
        yield from _uneven(seconds, "forward takes", 'balance="time" or split=')
    memory = [each.weight_bytes + each.gradient_bytes + each.optimizer_bytes for each in stages]
    if max(memory) >= SMALLEST:
        yield from _uneven(memory, "weights, gradients and optimizer take", "balance= or split=")


def _uneven(values: Sequence[float], what: str, setting: str) -> Iterator[Problem]:
    mean = sum(values) / len(values)
    for k, value in enumerate(values):
        if mean and value > IMBALANCE * mean:
            yield Problem.warning(
                k,
                f"its {what} {value / mean:.1f} times the mean of the stages",
                f"cut it elsewhere with {setting}",
            )
