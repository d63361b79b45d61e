"""Schedules from a file, several of them for one set of stages, two models in turn, and memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import ScheduleInterleaved1F1B, ScheduleInterleavedZeroBubble
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

import pipecodec
from pipecodec.demo.launch import Rank
from pipecodec.engine.failure import RemoteError
from pipecodec.pipelining import pipeline

from ..distributed.harness import values
from .stages import WORDS, Last, Middle, batch

CHUNKS = 4


@dataclass
class Output:
    """An output that torch's pytree does not take apart."""

    logits: Tensor


class Begin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)

    def forward(self, ids: Tensor) -> Any:
        hidden = self.embed(ids)
        return {"hidden": hidden, "skip": hidden * 2.0}


class End(Last):
    def forward(self, hidden: Tensor, skip: Tensor) -> Any:  # type: ignore[override]
        used = skip if round(float(skip[0, 0, 0].detach()) * 1e4) % 2 else None  # not each time
        return Output(super().forward(hidden, used)["logits"])


def loss_of(output: Output, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())


class Model:
    """A model of four stages, those of this rank, and the same model in one process."""

    def __init__(self, owners: Sequence[int], seed: int = 0) -> None:
        self.own = [stage for stage, owner in enumerate(owners) if owner == dist.get_rank()]
        self.modules, self.alone = self._made(seed), self._made(seed)
        self.optimizers = [
            torch.optim.SGD([p for m in modules for p in m.parameters()], lr=0.1)
            for modules in (self.modules, self.alone)
        ]
        self.stages = self.built()

    def _made(self, seed: int) -> list[nn.Module]:
        torch.manual_seed(seed)
        return [Begin(), Middle(), Middle(), End()]

    def built(self) -> list[Any]:
        part = pipecodec.partition_modules(self.modules)
        return [pipecodec.pipelining.build_stage(part, index) for index in self.own]

    def step(self, schedule: Any, step: int) -> Any:
        """Train on a batch, here and in one process."""
        given = batch(step, schedule._n_microbatches, False, masked=False)
        first = given.kwargs if 0 in self.own else {}
        last = {"target": given.target} if 3 in self.own else {}
        output = schedule.step(**first, **last)
        for inputs, target in given.micro:
            loss = loss_of(pipecodec.run_local(self.part_alone, **inputs), target)
            loss.backward()
        for module in self.alone:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(len(given.micro))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return output

    @property
    def part_alone(self) -> pipecodec.Partition:
        return pipecodec.partition_modules(self.alone)

    def difference(self) -> float:
        """Return the largest difference of this rank's weights from those of one process."""
        return max(
            float((here.detach() - there.detach()).abs().max())
            for index in self.own
            for here, there in zip(
                self.modules[index].parameters(), self.alone[index].parameters(), strict=True
            )
        )


LOOP, V = [0, 1, 0, 1], [0, 1, 1, 0]

ORDERS = {
    "loop": (LOOP, ["0F0123 2F3210 2B1032 0B0123", "1F2013 3F0123 3B3102 1B2103"]),
    "V": (V, ["0F0123 3F0123 3B0321 0B3210", "1F0123 2F2301 2B0123 1B1032"]),
    "uneven": ([0, 0, 1, 0], ["0F0123 1F1032 3F0123 3B2103 1B0123 0B3210", "2F0123 2B0213"]),
    "last out of order": (LOOP, ["0F0123 2F0123 2B0123 0B0123", "1F0123 3F0312 3B0123 1B0123"]),
}
"""Owners of the stages, and for each rank stages with the order of their micro-batches."""


def from_file(name: str, stages: list[Any], folder: str) -> Any:
    rows = [
        ",".join(f"{work[:2]}{chunk}" for work in row.split() for chunk in work[2:])
        for row in ORDERS[name][1]
    ]
    path = Path(folder, f"{name} {dist.get_rank()}.csv")
    path.write_text("\n".join(rows) + "\n")
    schedule = _PipelineScheduleRuntime(stages, CHUNKS, loss_fn=pipecodec.pipelining.loss(loss_of))
    schedule._load_csv(str(path))
    return schedule


def made(kind: Any, stages: list[Any], chunks: int = CHUNKS) -> Any:
    return kind(stages, chunks, loss_fn=pipecodec.pipelining.loss(loss_of))


def orders_of_a_file(folder: str) -> float:
    worst = 0.0
    for name in list(ORDERS)[:3]:
        model = Model(ORDERS[name][0])
        schedule = from_file(name, model.stages, folder)
        for step in range(2):
            model.step(schedule, step)
        worst = max(worst, model.difference())
    return worst


def orders_with_messages(folder: str) -> float:
    """As on devices, where flags of values that nobody used go in messages of their own."""
    own = pipeline.Pipeline._reads_gradients
    pipeline.Pipeline._reads_gradients = lambda self: False  # type: ignore[method-assign]
    try:
        return orders_of_a_file(folder)
    finally:
        pipeline.Pipeline._reads_gradients = own  # type: ignore[method-assign]


def schedules_in_turn(folder: str) -> float:
    """One set of stages by several schedules, and the same modules by another set."""
    model = Model(LOOP)
    schedules = [
        made(ScheduleInterleaved1F1B, model.stages, 2),
        made(ScheduleInterleavedZeroBubble, model.stages, 8),
        made(ScheduleInterleaved1F1B, model.built()),
    ]
    for step in range(6):
        model.step(schedules[step % 3], step)
    return model.difference()


def models_in_turn(folder: str) -> float:
    models = [Model(LOOP, seed) for seed in range(2)]
    schedules = [made(ScheduleInterleaved1F1B, model.stages) for model in models]
    for step in range(3):
        for model, schedule in zip(models, schedules, strict=True):
            model.step(schedule, step)
    return max(model.difference() for model in models)


def memory(folder: str) -> int:
    """Return how many tensors more there are after many steps, and stages after their end."""
    model = Model(LOOP)
    schedule = made(ScheduleInterleaved1F1B, model.stages)
    for step in range(3):
        model.step(schedule, step)
    before = tensors()
    gc.disable()
    try:
        for step in range(10):
            model.step(schedule, step)
        after = tensors()  # without a collection: no graph waits for one
    finally:
        gc.enable()
    stages = [weakref.ref(stage) for stage in model.stages]
    del model, schedule
    gc.collect()
    return max(0, after - before) + sum(stage() is not None for stage in stages)


def tensors() -> int:
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def outputs_without_graphs(folder: str) -> int:
    model = Model(V)
    output = model.step(from_file("V", model.stages, folder), 0)
    return sum(each.logits.requires_grad for each in output or [])


EXACT: dict[Callable[[str], float], float] = {
    orders_of_a_file: 1e-6,
    orders_with_messages: 1e-6,
    schedules_in_turn: 0.0,
    models_in_turn: 0.0,
    memory: 0.0,
    outputs_without_graphs: 0.0,
}


def on_ranks(rank: Rank, folder: str) -> tuple[dict[str, float], str]:
    dist.init_process_group("gloo", rank=rank.rank, world_size=rank.world)
    found = {}
    for case in EXACT:
        rank.say(case.__name__)
        found[case.__name__] = case(folder)
    rank.say("last out of order")
    model = Model(LOOP)
    with pytest.raises((ValueError, RemoteError)) as error:
        model.step(from_file("last out of order", model.stages, folder), 0)
    return found, str(error.value)


def test_of_two_ranks(tmp_path: Path) -> None:
    for found, said in values(on_ranks, 2, str(tmp_path)):
        for case, limit in EXACT.items():
            assert found[case.__name__] <= limit, (case.__name__, found)
        assert "let the last stage's forwards be in order" in said
