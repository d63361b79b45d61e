"""Weights that several stages share train as one weight, and stay equal to the last bit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from tests.distributed.harness import values

from .tied_training import Case, in_one_process, on_ranks

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)

CASES = {
    "two ranks": Case(steps=20),
    "three ranks, GPipe": Case("GPipe", (0, 1, -1), copied=True),
    "one rank has none": Case(places=(1, -1)),
    "one object in two stages": Case("ZBVZeroBubble", (0, -1)),
    "two copies on a rank": Case("ZBVZeroBubble", (0, -1), copied=True),
    "two copies on a rank, two on others": Case("DualPipeV", (0, 1, 3, -1), copied=True, steps=20),
    "one object in two stages of two ranks": Case("DualPipeV", (0, 1, -2, -1)),
    "interleaved": Case("Interleaved1F1B", (0, 3, -1)),
    "looped": Case("LoopedBFS", (0, 3), copied=True),
    "interleaved, zero bubble": Case("InterleavedZeroBubble", (0, 2, 3)),
    "not scaled": Case("InterleavedZeroBubble", (0, 3), scale_grads=False),
    "used now and then": Case(
        places=(0, 1, 2), active=((0, 1), (2,), (), (1,), (0, 1, 2)), steps=5
    ),
    "used now and then, on one rank": Case(
        "ZBVZeroBubble", (0, -1), copied=True, active=((0,), (-1,), ())
    ),
    "never used": Case(active=((),), steps=3),
    "frozen": Case(frozen=True, steps=3),
    "sparse": Case(places=(0, 1), sparse=True, optimizer=SGD),
    "sparse and dense": Case(places=(0, -1), sparse=True),
    "accumulated": Case(accumulate=2, optimizer=SGD),
    "accumulated, one object": Case("ZBVZeroBubble", (0, -1), accumulate=3, steps=6),
    "accumulated, used now and then": Case(
        accumulate=2, active=((0,), (-1,), (), (0, -1)), steps=8
    ),
    "zeros": Case(set_to_none=False, accumulate=2),
    "one micro-batch": Case("GPipe", micro_batches=1),
    "clipped": Case("ZBVZeroBubble", (0, 1, -1), copied=True, clip=0.1),
}


def test_copies_stay_equal_and_train_as_in_one_process() -> None:
    ranks = values(on_ranks, 3, CASES, timeout=180)
    for name, case in CASES.items():
        whole = in_one_process(case)
        copies = [
            weight
            for rank in ranks
            for (_, path), weight in rank[name].weights.items()
            if path == "weight"
        ]
        assert len(copies) == len(case.places)
        assert len({copy.tobytes() for copy in copies}) == 1, name
        for rank in ranks:
            own = rank[name]
            for where, weight in own.weights.items():
                assert np.allclose(weight, whole.weights[where], rtol=0, atol=1e-9), (name, where)
            for step, missing in enumerate(own.missing):
                assert missing == whole.missing[step] & own.weights.keys(), (name, step)
            assert own.norms == pytest.approx(whole.norms, rel=1e-9), name
