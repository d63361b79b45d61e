"""Chooses the layers at which stages begin, so that stages take equally long."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from ..errors import PartitionError
from ..tape.tape import Method, Step, Tape
from .layers import names_above_split
from .plan import called, calls_of

__all__ = ["Balance", "TooFewLayersError", "choose_cuts", "given_cuts"]

Balance = Literal["parameters", "time"] | Sequence[float]


class TooFewLayersError(PartitionError):
    """Refuses more stages than there are layers with which a stage can begin."""

    def __init__(self, layers: int, n_stages: int) -> None:
        super().__init__(
            f"the model calls {layers} layers between which it can be cut, too few for {n_stages} "
            f"stages; ask for at most {layers}, or name the modules with which stages begin in "
            f"split="
        )
        self.layers = layers


def given_cuts(model: nn.Module, tape: Tape, split: Sequence[str]) -> list[Step]:
    """Return the calls that `split` names, in order.

    A name means the first call of the module, or of one inside it, after the cut before;
    "layers.0#2" means its third call. Raises PartitionError for a module that is not called there.
    """
    cuts: list[Step] = []
    at = -1
    for entry, name in zip(split, names_above_split(model, split), strict=True):
        nth = entry.partition("#")[2]
        calls = calls_of(tape.steps, name)
        later = [step for step in calls if tape.steps.index(step) > at]
        if nth:
            later = [step for step in calls[int(nth) :] if tape.steps.index(step) > at]
        if not later:
            after = f" after {split[len(cuts) - 1]!r}" if cuts else ""
            order = ", ".join(dict.fromkeys(str(s.target) for s in tape.steps if s.is_module))
            raise PartitionError(f"split: {entry!r} is not called{after}; the model calls {order}")
        cuts.append(later[0])
        at = tape.steps.index(later[0])
    if at >= 0 and not any(step.is_module for step in tape.steps[: tape.steps.index(cuts[0])]):
        raise PartitionError(
            f"split: {split[0]!r} is the first module that the model calls; every stage needs one"
        )
    return cuts


def choose_cuts(
    model: nn.Module, tape: Tape, layers: Sequence[str], n_stages: int, balance: Balance
) -> list[Step]:
    """Return the calls at which `n_stages` stages begin.

    The largest stage, in parameters or in measured time, is as small as it can be; with weights,
    stage k's share of the parameters is near ``weights[k]``. Raises TooFewLayersError where there
    are not enough layers.
    """
    weights = [1.0] * n_stages if isinstance(balance, str) else [float(w) for w in balance]
    steps = [step for step in tape.steps if called(step)]
    costs = _costs(model, steps, balance == "time")
    known = set(layers)
    # Positions in `steps` at which a stage may begin.
    starts = [0, *(i for i, step in enumerate(steps) if i and known & set(called(step)))]
    if len(starts) < n_stages:
        raise TooFewLayersError(len(starts), n_stages)
    bounds = [*starts, len(steps)]
    sums = [sum(costs[a:b]) for a, b in pairwise(bounds)]
    return [steps[starts[i]] for i in _least_maximum(sums, weights)]


def _costs(model: nn.Module, steps: Sequence[Step], by_time: bool) -> list[float]:
    if by_time:
        return [step.seconds for step in steps]
    costs = []
    for step in steps:
        names = step.needs if isinstance(step.target, Method) else called(step)
        modules = [dict(model.named_modules()).get(name) for name in names]
        weights = {p: p.numel() for m in modules if m is not None for p in m.parameters()}
        costs.append(float(sum(weights.values())) or 1.0)
    return costs


def _least_maximum(costs: Sequence[float], weights: Sequence[float]) -> list[int]:
    """Return where the second and later stages begin, so that the largest cost/weight is least."""
    count = len(costs)
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    best: list[
        list[tuple[float, float, int]]
    ] = []  # per stage and end: worst, its square sum, begin
    for k, weight in enumerate(weights):
        row = []
        for end in range(count + 1):
            options = []
            for begin in range(k, end):
                if k == 0 and begin:
                    break
                share = (total[end] - total[begin]) / weight
                before = best[k - 1][begin] if k else (0.0, 0.0, 0)
                options.append((max(before[0], share), before[1] + share * share, begin))
            row.append(min(options, default=(float("inf"), 0.0, 0)))
        best.append(row)
    cuts: list[int] = []
    end = count
    for k in reversed(range(len(weights))):
        begin = best[k][end][2]
        if k:
            cuts.insert(0, begin)
        end = begin
    return cuts
