"""Counts of the boundary's benchmark: messages, waits and bytes, alike on every machine."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.boundary import counting, storing
from benchmarks.boundary.cases import COUNTED, STORED, Case
from benchmarks.boundary.engines import MICRO_BATCHES
from benchmarks.boundary.ways import BY_HAND, ORIGIN, PIPECODEC, wrapped

from .harness import values

MESSAGES = {
    "hidden": ((1, 1), (2, 1), (2, 1)),
    "hidden [4, 8] float32, bool mask, None, int, bool": ((2, 1), (2, 1), (6, 1)),
    "hidden, mask of 4097 bytes": ((2, 1), (3, 1), (3, 1)),
    "hidden, 40 masks of 4 bytes": ((41, 1), (2, 1), (42, 1)),
    "hidden, 24 (key, value) with gradients": ((49, 49), (2, 1), (50, 49)),
}
"""For each micro-batch and boundary, forward and back: by hand, in pipecodec, by the origin."""

SCALARS = COUNTED[1]


def test_messages_and_waits_in_the_engine() -> None:
    stages = 3
    per_rank = values(counting.in_each_way, stages, stages)
    for name, expected in MESSAGES.items():
        waits = {}
        for way, (forward, back) in zip((BY_HAND, PIPECODEC, ORIGIN), expected, strict=True):
            messages, waits[way] = counting.totals([rank[name][way] for rank in per_rank])
            # On the CPU a gradient says by itself which leaves nobody used.
            assert messages == {"forward": forward, "back": back, "flags": 0}
            assert {rank[name][way].loss for rank in per_rank} == {per_rank[0][name][BY_HAND].loss}
        more = [own - hand for own, hand in zip(waits[PIPECODEC], waits[BY_HAND], strict=True)]
        # The engine's own: it moves each tensor of a batch, of which a packed one has two.
        assert more == [Counter(to=MICRO_BATCHES), *[Counter()] * (stages - 1)]
        *_, last = waits[ORIGIN]
        numbers = 2 if name == SCALARS.name else 0  # an int and a bool are read, None is not
        assert last["cpu"] == MICRO_BATCHES
        assert last["tolist"] == numbers * MICRO_BATCHES


def test_what_would_wait_is_seen() -> None:
    tensor = torch.ones(3)
    with counting.counted_waits() as seen:
        bool(tensor[0] > 0), tensor.sum().item(), tensor.tolist()
        tensor.cpu().numpy(), tensor.to("cpu"), tensor.to(torch.float64), tensor.to(device="cpu")
        tensor.to(torch.ones(1))
        torch.equal(tensor, tensor), tensor.nonzero(), torch.tensor([5])
    assert seen == {
        "_local_scalar_dense": 2,
        "tolist": 1,
        "cpu": 1,
        "numpy": 1,
        "to": 3,
        "equal": 1,
        "nonzero": 1,
        "tensor": 1,
    }
    assert torch.Tensor.cpu(tensor) is tensor and not hasattr(torch.tensor, "__wrapped__")


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.name)
def test_wrapper_waits_for_nothing(case: Case) -> None:
    """Forward and backward of three stages; a frame on the CPU is read where it is, see README."""
    stages = wrapped(case, 3)

    def micro_batch() -> None:
        sent: list[tuple[Any, ...]] = []
        received: list[tuple[Any, ...]] = [(torch.ones(1),)]
        for stage in stages[:-1]:
            sent.append(stage(received[-1]))
            received.append(
                tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent[-1])
            )
        stages[-1](received[-1]).backward()
        for own, back in zip(sent[::-1], received[:0:-1], strict=True):
            own[0].backward(back[0].grad)

    micro_batch()
    with counting.counted_waits() as seen:
        micro_batch()
    assert seen == Counter()
    assert all(p.grad is not None for stage in stages for p in stage.parameters())


SLACK = 4096
"""Bytes for frames, tokens, tunnels' padding and empty tensors."""

MIB = 2**20
COPIED = {
    "4 MiB float32": (0, 0, 0, 4),
    "4 MiB bf16": (0, 0, 0, 4),
    "4 + 2 MiB float32": (6, 6, 6, 6),
    "4 MiB float32, 4 MiB mask": (0, 0, 0, 4),
}
"""MiB by storing.SIDES: at most one copy of the differentiable leaves, and no other one."""

PEAKS = {
    "4 MiB float32": (0, 0, 0),
    "4 MiB bf16": (0, 0, 0),
    "4 + 2 MiB float32": (2, 6, 6),
    "4 MiB float32, 4 MiB mask": (0, 0, 0),
}
"""MiB that pipecodec adds to the peak of a step, by stage: at most one copy, and none of a lone
leaf, whose gradient the engine gives away."""


def test_bytes_that_packing_and_unpacking_copy() -> None:
    (copied,) = values(storing.copies, 1)
    assert list(copied) == [case.name for case in STORED] == list(COPIED)
    for name, expected in COPIED.items():
        for side, mebibytes in zip(storing.SIDES, expected, strict=True):
            found = copied[name][side]
            for nbytes in (found.peak, found.total):
                assert mebibytes * MIB <= nbytes < mebibytes * MIB + SLACK, (name, side)


def test_bytes_that_a_step_of_the_engine_holds_at_most() -> None:
    stages = 3
    per_rank = values(storing.peaks, stages, stages)
    for name, expected in PEAKS.items():
        for rank, mebibytes in zip(per_rank, expected, strict=True):
            added = rank[name][PIPECODEC].peak - rank[name][BY_HAND].peak
            assert abs(added - mebibytes * MIB) < SLACK, name
            if "+" not in name:  # a lone leaf: not even freed and allocated anew
                assert rank[name][PIPECODEC].total - rank[name][BY_HAND].total < 2 * SLACK, name
