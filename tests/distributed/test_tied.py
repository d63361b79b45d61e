"""Weights that stages share train as in one process, and their copies stay equal to the bit."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipecodec import partition_modules
from pipecodec.demo.launch import Rank

from .engines import join, loss_fn
from .harness import TIMEOUT, values
from .reference import in_one_process
from .tied import Case, engine_of
from .tied_models import Toy
from .tied_words import VARIANTS
from .training import Trained, on_engine

PRECISIONS = {
    "fp32 ZeRO-0": Case("gpt2", 2),
    "fp32 ZeRO-1": Case("gpt2", 2, zero=1),
    "bf16 ZeRO-0": Case("gpt2", 2, bf16=True),
    "bf16 ZeRO-1": Case("gpt2", 2, bf16=True, zero=1),
}
LIMITS = {False: {"loss": 1e-6, "norm": 1e-6, "weights": 1e-6, "copies": 0.0}}
"""The largest differences that count as the same training, in fp32 (False) and bf16."""

LIMITS[True] = {"loss": 1e-2, "norm": 2e-3, "weights": 2.0**-8, "copies": 0.0}

OVERLAPPING = ("a b", "a", "b a")


def every_precision(name: str, **changes: Any) -> dict[str, Case]:
    return {f"{name}, {key}": replace(case, **changes) for key, case in PRECISIONS.items()}


def two_precisions(name: str, **changes: Any) -> dict[str, Case]:
    every = every_precision(name, **changes)
    return {key: case for key, case in every.items() if case.bf16 == bool(case.zero)}


CASES = {
    "gpt2 pp2": Case("gpt2", 2),
    "llama pp2": Case("llama", 2),
    "gpt2 pp4": Case("gpt2", 4),
    "llama pp4": Case("llama", 4),
    **every_precision("gpt2 pp2 clipped", clip=0.1),
    **every_precision("gpt2 pp2 dp2", replicas=2),
    **every_precision("gpt2 pp2 tp2", tensor=2, clip=0.1),
    **every_precision("overlapping", model=OVERLAPPING, pipes=3, clip=0.1),
    **every_precision("one copy without a gradient", model=("a", "(a)", "a"), pipes=3),
    **two_precisions("no copy with a gradient", model=("(a)", "", "(a)"), pipes=3),
    **two_precisions("frozen", model=OVERLAPPING, pipes=3, frozen=True),
    **every_precision("dp4, 20 steps", model=("a", "a"), replicas=4, steps=20),
    "dual pipe": Case(("a b", "b", "c b", "a c"), 2, schedule="dualpipev"),
    "dual pipe, copied": Case(("a b", "b", "c b", "a c"), 2, schedule="dualpipev", made="copied"),
    "both copies on one rank": Case(("a", "a"), 1, schedule="dualpipev", made="copied"),
    "t5 pp3": Case("t5", 3),
    "t5 pp4, fp32 ZeRO-1": Case("t5", 4, zero=1),
    **{name: Case(name, 3) for name in VARIANTS},
    **every_precision("sparse gradients", model="sparse gradients", pipes=3, clip=0.1),
    **every_precision("adapters", model="adapters", pipes=3),
    **every_precision("nothing but a copy", model="nothing but a copy", pipes=3, clip=0.1),
    "copied, ties by hand": Case("gpt2", 3, made="copied"),
    "copied, ties by name": Case("plain", 3, made="copied by name"),
    **two_precisions("on meta", model="plain", pipes=3, made="on meta"),
}
TOY = {"model": ("a", "a"), "clip": 0.1}
MUTATIONS = {
    **every_precision("without broadcast", **TOY, without="broadcast"),
    **every_precision("without reduction", **TOY, without="reduction"),
    **every_precision("without norm", **TOY, without="norm"),
    **two_precisions("without order", model=("a", "a"), replicas=4, steps=20, without="order"),
}


@functools.cache
def pipeline(processes: int) -> dict[str, list[Trained]] | AssertionError:
    """Train all cases of so many processes in one set of them."""
    every = {**CASES, **MUTATIONS}
    cases = {name: case for name, case in every.items() if case.grid.processes == processes}
    try:
        ranks = values(on_engine, processes, cases, timeout=TIMEOUT + 2 * len(cases))
    except AssertionError as error:  # which every case of the group is to show
        return error
    return {name: [rank[name] for rank in ranks] for name in cases}


@functools.cache
def whole() -> dict[tuple[Any, ...], Trained]:
    cases = {case.whole: case for case in {**CASES, **MUTATIONS}.values()}
    (results,) = values(in_one_process, 1, cases)
    return results


def differences(ranks: list[Trained], expected: Trained) -> dict[str, float]:
    """Return the largest differences in loss, norm and weights, and of copies from another."""
    largest = {"loss": 0.0, "norm": 0.0, "weights": 0.0, "copies": 0.0}

    def note(what: str, got: Any, wanted: Any, scale: float = 1.0) -> None:
        difference = float(np.max(np.abs(np.subtract(got, wanted)), initial=0.0)) / scale
        largest[what] = max(largest[what], difference)

    together: dict[str, Any] = {}
    for got in ranks:
        note("loss", got.losses, expected.losses)
        note("norm", got.norms, expected.norms, max(expected.norms, default=1.0))
        for name, weight in got.weights[-1].items():
            note("weights", weight, expected.weights[-1][name])
            note("copies", weight, together.setdefault(name, weight))
    assert together.keys() == expected.weights[-1].keys()
    return largest


def found(name: str, case: Case) -> dict[str, float]:
    ranks = pipeline(case.grid.processes)
    if isinstance(ranks, AssertionError):
        raise ranks
    return differences(ranks[name], whole()[case.whole])


@pytest.mark.parametrize("name", CASES)
def test_trains_as_in_one_process(name: str) -> None:
    case = CASES[name]
    largest = found(name, case)
    assert all(largest[what] <= limit for what, limit in LIMITS[case.bf16].items()), largest


@pytest.mark.parametrize("name", MUTATIONS)
def test_would_notice_what_is_left_out(name: str) -> None:
    case = MUTATIONS[name]
    what = "norm" if case.without == "norm" else "copies"
    assert found(name, case)[what] > LIMITS[case.bf16][what]


def disagree(rank: Rank, kind: str) -> str:
    """Build two stages of which rank 1 has another tie or another copy, and return the error."""
    part = partition_modules(list(Toy(("a", "a")).stages))
    if rank.rank == 1:
        copy = torch.zeros(8, 4 if kind == "shape" else 8, dtype=DTYPES.get(kind))
        part.stages[1].a = nn.Parameter(copy, requires_grad=kind != "frozen")
        if kind == "tie":
            part.tie_weights.clear()
    if kind == "path":
        part.tie_weights["submod_0.a"] = [("a", 0), ("b", 1)]
    with pytest.raises(ValueError) as caught:
        engine_of(Case(("a", "a"), 2), part, loss_fn)
    return str(caught.value)


def disagreements(rank: Rank) -> dict[str, str]:
    join()
    return {kind: disagree(rank, kind) for kind in MESSAGES}


DTYPES = {"dtype": torch.float64}
MESSAGES = {
    "frozen": "the copies of a tied weight differ in requires_grad: True for a (stage 0) on rank "
    "0; False for a (stage 1) on rank 1; make them the same, or give the stages weights of their "
    "own",
    "shape": "the copies of a tied weight differ in shape: [8, 8] for a (stage 0) on rank 0; "
    "[8, 4] for a (stage 1) on rank 1; make them the same, or give the stages weights of their own",
    "dtype": "the copies of a tied weight differ in dtype: float32 for a (stage 0) on rank 0; "
    "float64 for a (stage 1) on rank 1; make them the same, or give the stages weights of their "
    "own",
    "path": "a tied weight has no parameter b (stage 1) on rank 1; partition the stages after they "
    "were wrapped or given adapters, or correct its path",
    "tie": "ranks differ in tied weights: {'submod_0.a': [('a', 0), ('a', 1)]} on rank 0; {} on "
    "rank 1; give all ranks the same",
}


def test_every_rank_is_told_what_keeps_copies_from_being_tied() -> None:
    assert values(disagreements, 2) == [MESSAGES] * 2
