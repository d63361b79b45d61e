"""Cuts a small model in three stages and compares the stages with it, in every use."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import pipecodec

from .build import Case, build
from .compare import Run, difference, run_detached, run_model, run_stages

__all__ = [
    "DROPOUT",
    "ROUNDED",
    "STAGES",
    "TRAINING_ONLY",
    "WITH_EXAMPLES",
    "Outcome",
    "check",
    "check_case",
    "cut_and_compare",
    "first_difference",
    "half_of_uses",
    "uses",
]

STAGES = 3
DROPOUT = 0.1
ROUNDED = "gradients that differ by rounding over detached boundaries"
TRAINING_ONLY = "in training only: the model has no gradients in evaluation"
WITH_EXAMPLES = "with a batch of each kind in examples="


@dataclass(frozen=True)
class Outcome:
    """What came of one model: "right", "refused", "WRONG" or "not built", and why."""

    verdict: str
    text: str = ""


Use = tuple[bool, bool, tuple[int, int]]


def uses(case: Case) -> list[Use]:
    """Return all (training, padded, size) that a partition is compared for."""
    return list(itertools.product((True, False), (True, False), case.sizes))


def half_of_uses(case: Case) -> list[Use]:
    """Return as few as have each pair of mode, padding and size."""
    return [use for i, use in enumerate(uses(case)) if i in (0, 3, 5, 6)]


def check(mapping: str, model_type: str) -> Outcome:
    """Build a model, cut it and compare the stages with it."""
    try:
        case = build(mapping, model_type, DROPOUT)
        if (wrong := differs_from_itself(case)) is not None:
            return Outcome("not built", f"two runs of the model differ: {wrong}")
    except Exception as error:
        return Outcome("not built", told(error))
    case.model.eval()
    try:
        differs_from_itself(case)
    except Exception:  # it refuses, or keeps a graph from one run to the next
        outcome = check_case(case, [use for use in uses(case) if use[0]])
        if outcome.verdict == "right":
            return Outcome("right", "; ".join(filter(None, [TRAINING_ONLY, outcome.text])))
        return outcome
    return check_case(case, uses(case))


def differs_from_itself(case: Case) -> str | None:
    inputs = case.inputs(*case.sizes[0], 1, True)
    run_model(case.model, inputs)  # the first run may exchange modules
    one, other = (run_model(case.model, inputs) for _ in range(2))
    return difference(one, other)


def check_case(case: Case, compared: Sequence[Use]) -> Outcome:
    """Cut a model with one batch, and compare; if that is refused, with a batch of every kind."""
    first = case.inputs(*case.sizes[0], 1, True)
    outcome = cut_and_compare(case, first, (), compared)
    if outcome.verdict != "refused":
        return outcome
    kinds = dict.fromkeys((padded, size) for _, padded, size in compared)
    batches = [case.inputs(*size, 1, padded) for padded, size in kinds]
    again = cut_and_compare(case, first, batches, compared)
    if again.verdict == "right":
        return Outcome("right", "; ".join(filter(None, [WITH_EXAMPLES, again.text])))
    return outcome if again.verdict == "refused" else again


def cut_and_compare(
    case: Case,
    first: dict[str, Any],
    examples: Sequence[dict[str, Any]],
    compared: Sequence[Use],
) -> Outcome:
    """Cut a model with a batch and examples, and compare the stages with it in some uses."""
    case.model.train()
    try:
        part = pipecodec.partition(case.model, kwargs=first, n_stages=STAGES, examples=examples)
    except Exception as error:
        return Outcome("refused", told(error))
    refusals = []
    rounded: set[str] = set()
    for training, padded, size in compared:
        use = f"{'train' if training else 'eval'} {'padded' if padded else 'full'} {size}"
        case.model.train(training)
        for stage in part.stages:
            stage.train(training)
        inputs = case.inputs(*size, 9, padded)
        try:
            wrong = first_difference(part, case, inputs, rounded)
        except Exception as error:
            refusals.append(f"{use}: {told(error)}")
            continue
        if wrong is not None:
            return Outcome("WRONG", f"{use}: {wrong}")
    if refusals:
        return Outcome("refused", refusals[0])
    return Outcome("right", f"{ROUNDED}: {len(rounded)}" if rounded else "")


def first_difference(
    part: pipecodec.Partition,
    case: Case,
    inputs: dict[str, Any],
    rounded: set[str] | None = None,
) -> str | None:
    """Return how the stages differ from the model, in one graph or over detached boundaries.

    Over detached boundaries two kinds of gradients may differ by rounding; their weights are added
    to `rounded`. Each stage sums its own gradients of a weight before they are added to those of
    other stages, which for three uses is another order than the model's. And where a value or a
    gradient arrives with other strides, kernels may add in another order.
    """
    expected, gradients = run_model(case.model, inputs)
    relaid: list[tuple[int, ...]] = []
    runs: dict[str, Callable[..., Run]] = {
        "local": run_stages,
        "detached": functools.partial(run_detached, relaid=relaid),
    }
    sizes = [float(g.abs().max()) for g in gradients.values() if g is not None and g.numel()]
    for name, run in runs.items():
        output, others = run(part, case.model, inputs)
        if (wrong := difference(expected, output, "output")) is not None:
            return f"{name}: {wrong}"
        for weight, one in gradients.items():
            other = others[weight]
            wrong = difference(one, other, f"the gradient of {weight}")
            if wrong is None:
                continue
            reordered = name == "detached" and (bool(relaid) or weight in tied(part, case.model))
            if one is None or other is None or not reordered:
                return f"{name}: {wrong}"
            if not torch.allclose(one, other, rtol=1e-5, atol=1e-6 * max(sizes)):
                return f"{name}: {wrong}"
            if rounded is not None:
                rounded.add(weight)
    return None


def tied(part: pipecodec.Partition, model: torch.nn.Module) -> set[str]:
    """Return all names that the weights have in the model that several stages hold."""
    paths = {path for places in part.tie_weights.values() for path, _ in places}
    named = dict(model.named_parameters(remove_duplicate=False))
    shared = {id(named[path]) for path in paths}
    return {name for name, weight in named.items() if id(weight) in shared}


def told(error: BaseException) -> str:
    """Return an error's type and text in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
