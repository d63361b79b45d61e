"""Values that skip stages reach a rank once, whatever the schedule, and train as in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import pipecodec
from pipecodec.demo.launch import Rank
from pipecodec.pipelining import pipeline
from pipecodec.stages.rank_liveness import RankLiveness

from ..distributed.harness import values
from .cases_links import CASES
from .schedules import SCHEDULES
from .training import alone, difference, on_rank

CHUNKS = 4
SIZE = 2**16
"""Bytes of the hidden state and of the value that skips stages, of a micro-batch."""


class Source(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE // 4))

    def forward(self, x: Tensor) -> Any:
        return {"hidden": x * self.weight, "skip": x + self.weight}


class Plain(Source):
    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": hidden * self.weight}


class Adds(Source):
    def forward(self, hidden: Tensor, skip: Tensor) -> Any:
        return {"hidden": hidden * self.weight + skip}


def sent(rank: int, schedule: str, *, linked: bool) -> dict[int, list[int]]:
    """Return the bytes of a micro-batch that this rank sends over each boundary, and back."""
    modules = [Source(), Plain(), Adds(), Adds()]
    part = pipecodec.partition_modules(modules, outputs=[["hidden", "skip"], *[["hidden"]] * 3])
    kind = SCHEDULES[schedule]
    stages = [pipecodec.pipelining.build_stage(part, index) for index in kind.stages(rank, 2)]
    counts = {k: [0, 0] for k in range(1, 4)}
    for stage in stages:
        count(stage, "get_fwd_send_ops", counts, stage.stage_index + 1, 0)
        count(stage, "get_bwd_send_ops", counts, stage.stage_index, 1)
    loss = pipecodec.pipelining.loss(lambda output, target: output["hidden"].mean())
    found = pipeline.rank_liveness
    try:
        if not linked:
            pipeline.rank_liveness = lambda *args: RankLiveness(part.liveness, [])
        given = {"x": torch.ones(CHUNKS, SIZE // 4)} if rank == 0 else {}
        last = {"target": torch.ones(CHUNKS)} if 3 in kind.stages(rank, 2) else {}
        kind.make(stages, CHUNKS, loss_fn=loss).step(**given, **last)
    finally:
        pipeline.rank_liveness = found
    return {k: [number // CHUNKS for number in both] for k, both in counts.items()}


def count(
    stage: Any, name: str, counts: dict[int, list[int]], boundary: int, direction: int
) -> None:
    """Add the bytes that this method lets the schedule send."""
    own = getattr(stage, name)

    def counted(chunk: int) -> Any:
        messages = own(chunk)
        if boundary in counts:
            counts[boundary][direction] += sum(message.tensor.nbytes for message in messages)
        return messages

    setattr(stage, name, counted)


def on_links(rank: Rank) -> tuple[dict[str, str], dict[Any, Any]]:
    """Return the first difference of each case, and bytes by schedule, with links and without."""
    dist.init_process_group("gloo", rank=rank.rank, world_size=rank.world)
    differences, crossed = {}, {}
    for name, case in CASES.items():
        rank.say(name)
        expected = alone(case, case.kind.count(rank.world))
        got = on_rank(case, rank.rank, rank.world)
        differences[name] = difference(got, expected, case.within)
    for schedule in ("Interleaved1F1B", "ZBVZeroBubble"):
        for linked in (True, False):
            rank.say(f"bytes: {schedule}, {linked}")
            crossed[schedule, linked] = sent(rank.rank, schedule, linked=linked)
    dist.destroy_process_group()
    return differences, crossed


def test_links_of_two_ranks() -> None:
    ranks = values(on_links, 2)
    for name in CASES:
        assert not any(differences[name] for differences, _ in ranks), name
    tensors = {
        key: [
            [sum(crossed[key][k][way] for _, crossed in ranks) // SIZE for k in range(1, 4)]
            for way in range(2)
        ]
        for key in ranks[0][1]
    }
    print({key: [crossed[key] for _, crossed in ranks] for key in tensors})
    assert tensors == {
        ("Interleaved1F1B", True): [[2, 1, 1], [2, 1, 1]],
        ("Interleaved1F1B", False): [[2, 2, 2], [2, 2, 2]],
        ("ZBVZeroBubble", True): [[2, 0, 1], [2, 0, 1]],
        ("ZBVZeroBubble", False): [[2, 0, 2], [2, 0, 2]],
    }
