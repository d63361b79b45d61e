"""The doctor's figures and predictions beside a running engine."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipecodec
from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import outcomes, values

GRID = Grid(3)
INPUTS = ["x", "labels"]


class First(nn.Linear):
    """Makes two values with gradients, a large and a small mask, and a number."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = super().forward(x)
        wide = torch.ones(len(x), 2000, dtype=torch.bool)
        return {
            "hidden": hidden,
            "extra": hidden.sum(1),
            "wide": wide,
            "mask": {"m": x > 0, "n": 1},
        }


class Middle(nn.Linear):
    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        return {"hidden": super().forward(hidden).tanh()}


class Last(nn.Linear):
    def forward(
        self, hidden: Tensor, extra: Tensor, wide: Tensor, mask: dict[str, Any], labels: Tensor
    ) -> Tensor:
        logits = super().forward(hidden) * mask["m"] + extra[:, None] * wide.any()
        return nn.functional.cross_entropy(logits, labels)


def stages() -> list[nn.Module]:
    torch.manual_seed(0)
    return [First(8, 8), Middle(8, 8), Last(8, 8)]


def batch(rows: int = 4) -> dict[str, Tensor]:
    x = torch.arange(rows * 8).reshape(rows, 8) / 32 - 1
    return {"x": x, "labels": torch.arange(rows) % 8}


def sent(rank: Rank) -> dict[tuple[int, int], list[int]]:
    """Return the bytes of the messages of one step that this rank sent, by (from, to)."""
    from deepspeed.runtime.pipe import p2p

    engine = engine_for(stages(), GRID, inputs=INPUTS, loss_fn=None)
    steps = [batch() for _ in range(2 * GRID.accumulate)]
    batches = iter(steps)
    engine.train_batch(batches)
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    plain = p2p.send

    def send(tensor: Tensor, stage: int) -> Any:
        found[engine.stage_id, stage].append(tensor.numel() * tensor.element_size())
        return plain(tensor, stage)

    p2p.send = send
    try:
        engine.train_batch(batches)
    finally:
        p2p.send = plain
    return dict(found)


def test_messages_and_bytes_are_those_of_the_engine() -> None:
    report = pipecodec.doctor(pipecodec.partition_modules(stages(), INPUTS), **batch())
    assert report.problems == []
    found = {way: sizes for rank in values(sent, 3) for way, sizes in rank.items()}
    for boundary in report.boundaries:
        k = boundary.index
        forward, back = found[k, k + 1], found[k + 1, k]
        assert boundary.messages == (len(forward) / GRID.accumulate, len(back) / GRID.accumulate)
        assert boundary.nbytes == (sum(forward) / GRID.accumulate, sum(back) / GRID.accumulate)


def train(rank: Rank, rows: list[int]) -> None:
    engine = engine_for(stages(), GRID, inputs=INPUTS, loss_fn=None)
    engine.train_batch(iter([batch(n) for n in rows]))


@pytest.mark.parametrize("rows", [[4, 4, 4], [4, 4, 3]])
def test_sizes_that_the_report_calls_a_problem_fail(rows: list[int]) -> None:
    part = pipecodec.partition_modules(stages(), INPUTS)
    report = pipecodec.doctor(part, more=[batch(n) for n in rows[1:]], **batch(rows[0]))
    ended = outcomes(train, 3, rows)
    if len(set(rows)) == 1:
        assert report.problems == []
        assert [each.status for each in ended] == ["ok"] * 3
    else:
        fault = report.problems[0].fault.removesuffix(" (batch 2 of more=)")
        assert [each.status for each in ended] == ["error"] * 3
        assert fault in ended[0].detail
