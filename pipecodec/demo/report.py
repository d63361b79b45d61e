"""Reports at the demo's end: both trainings compared, and the tensors of each boundary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipecodec.demo.crossing import Crossing
    from pipecodec.demo.train import Trained

__all__ = [
    "LIMIT",
    "TIED_LIMIT",
    "copy_difference",
    "loss_difference",
    "summary",
    "weight_difference",
]

LIMIT = 1e-6
"""The largest difference in loss, in float32, that still counts as the same training."""

TIED_LIMIT = 1e-3
"""The same with tied weights, whose gradients the pipeline sums in another order than one process.

Adam makes whole steps of gradients that are nothing but rounding, such as those of GPT-2's biases
of keys; after the 40 steps of the demo losses differ by some 1e-5.
"""


def loss_difference(stages: Sequence[Trained], whole: Trained) -> float:
    """Return the largest difference in loss over all steps and ranks; NaN if one is NaN."""
    return max(
        (
            float(np.max(np.abs(np.subtract(stage.losses, whole.losses)), initial=0.0))
            for stage in stages
        ),
        key=lambda difference: (difference != difference, difference),
    )


def weight_difference(stages: Sequence[Trained], whole: Trained) -> float:
    """Return the largest difference in any weight.

    Raises ``ValueError`` if the stages together do not hold each of the model's weights.
    """
    names = {name for stage in stages for name in stage.weights}
    if names != set(whole.weights):
        raise ValueError(f"the stages hold {len(names)} weights, the model {len(whole.weights)}")
    return max(
        float(np.max(np.abs(weight - whole.weights[name])))
        for stage in stages
        for name, weight in stage.weights.items()
    )


def copy_difference(stages: Sequence[Trained]) -> float | None:
    """Return the largest difference between stages' copies of one weight, None without copies."""
    copies: dict[str, list[Any]] = {}
    for stage in stages:
        for name, weight in stage.weights.items():
            copies.setdefault(name, []).append(weight)
    differences = [
        float(np.max(np.abs(other - first)))
        for first, *others in copies.values()
        for other in others
    ]
    return max(differences, default=None)


def summary(stages: Sequence[Trained], whole: Trained) -> str:
    """Return the report as text of several lines."""
    return "\n".join(_lines(stages, whole))


def _lines(stages: Sequence[Trained], whole: Trained) -> Iterator[str]:
    yield f"loss, first and last step        {_first_and_last(stages[0])}"
    yield f"the same in one process          {_first_and_last(whole)}"
    yield f"largest difference in loss       {_exact(loss_difference(stages, whole))}"
    yield f"largest difference in weights    {_exact(weight_difference(stages, whole))}"
    between_copies = copy_difference(stages)
    if between_copies is not None:
        yield f"largest difference of copies     {_exact(between_copies)}"
    for number, (sender, receiver) in enumerate(pairwise(stages)):
        yield ""
        yield f"From stage {number} to stage {number + 1}, per micro-batch:"
        yield from _crossed(sender.crossing, receiver.crossing)


def _first_and_last(trained: Trained) -> str:
    return f"{trained.losses[0]:.4f} -> {trained.losses[-1]:.4f}"


def _exact(difference: float) -> str:
    return "none, equal to the last bit" if difference == 0.0 else f"{difference:.3g}"


def _crossed(sender: Crossing, receiver: Crossing) -> Iterator[str]:
    width = max(len(name) for name, _ in sender.values)
    for name, what in sender.values:
        yield f"  {name:<{width}}  {what}"
    tunnel, *slots, frame = (f"{size:,}" for size in sender.messages)
    between = f"slots of {' + '.join(slots)} bytes, " if slots else ""
    yield f"  {len(sender.messages)} messages: tunnel of {tunnel} bytes, {between}frame of {frame}"
    yield (
        f"  In all: {sender.sent['frames']} frames sent, {sender.sent['hits']} of them the frame "
        f"before used again, {receiver.received['reads']} read by the receiving host"
    )
