"""Ways to call a schedule, each done by two ranks and compared with one process."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.microbatch import TensorChunkSpec, _Replicate

import pipecodec
from pipecodec.demo.launch import Rank
from pipecodec.pipelining import build_stage, loss, per_sample, whole

from .stages import WIDTH, WORDS

__all__ = ["CALLS", "run_calls"]

INPUTS = ["ids", "table", "names", "scale", "more", "labels"]
SAMPLES, LENGTH, CHUNKS = 8, 6, 4


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)

    def forward(
        self,
        ids: Tensor,
        table: Any = None,
        names: Any = None,
        scale: float = 1.0,
        more: Any = None,
    ) -> Any:
        hidden = self.embed(ids)
        if table is not None:
            hidden = hidden + table
        if more is not None:
            hidden = hidden * more["by"][0][..., None]
        lengths = [hidden[:, : len(name)] for name in names or []]
        return {"hidden": hidden * scale, "seen": names, "lengths": lengths}


@dataclass
class Output:
    logits: Tensor
    seen: Any
    loss: Tensor | None
    count: int


class Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WORDS)
        self.activations: list[Any] = []

    def forward(self, hidden: Tensor, seen: Any, lengths: Any, labels: Any = None) -> Output:
        inner = hidden.tanh()
        self.activations.append(weakref.ref(inner))
        for part in lengths:
            inner = inner + part[:, -1:]
        logits = self.head(inner)
        found = None if labels is None else of_logits(logits, labels)
        return Output(logits, seen, found, len(lengths))


def of_logits(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), **options)


def loss_fn(output: Output, target: Any, **options: Any) -> Tensor:
    assert isinstance(output, Output)
    if isinstance(target, dict):
        assert target["name"] == "y" and target["all"] == [1, 2]
        target = target["y"][0]
    if isinstance(target, list):
        target = torch.stack(target)
    return of_logits(output.logits, target, **options)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, WORDS, shape, generator=torch.Generator().manual_seed(seed))


class Both:
    """The two stages of this rank's pipeline, and the same in one process."""

    def __init__(self, rank: int, **options: Any) -> None:
        torch.manual_seed(0)
        modules = [First(), Second()]
        torch.manual_seed(0)
        self.alone = nn.ModuleList([First(), Second()])
        self.last = rank == 1
        self.part = pipecodec.partition_modules(modules, INPUTS)
        self.stage = build_stage(self.part, rank, **options)
        self.module: Any = modules[rank]

    def call(
        self,
        run: Any,
        kwargs: Mapping[str, Any],
        target: Any = None,
        args: Sequence[Any] = (),
        **options: Any,
    ) -> tuple[Any, list[Tensor]]:
        losses: list[Tensor] = []
        given = {"target": target} if self.last and target is not None else {}
        args, kwargs = ((), {}) if self.last else (args, kwargs)
        return run(*args, **kwargs, **given, losses=losses, **options), losses

    def expect(self, found: Any, micro: Sequence[Any], of: Callable[..., Tensor] = loss_fn) -> None:
        """Compare the results and the gradients with those of the micro-batches."""
        outputs, losses = found
        first, second = self.alone
        self.alone.zero_grad()
        training = torch.is_grad_enabled()
        expected = []
        for kwargs, target in micro:
            labels = kwargs.pop("labels", None)
            output = second(**first(**kwargs), labels=labels)
            expected.append((output, of(output, target)))
            if training:
                expected[-1][1].backward()
        if self.last:
            assert [loss.item() for loss in losses] == [loss.item() for _, loss in expected]
            for got, (right, _) in zip(outputs, expected, strict=True):
                assert isinstance(got, Output) and not got.logits.requires_grad
                assert torch.equal(got.logits, right.logits)
                assert (got.seen, got.count) == (right.seen, right.count)
        own = second if self.last else first
        for mine, right in zip(self.module.parameters(), own.parameters(), strict=True):
            if training:
                assert torch.equal(mine.grad, right.grad / len(micro))
        self.module.zero_grad()


def parts(value: Any, chunks: int = CHUNKS) -> Any:
    return value.tensor_split(chunks)


def inputs_of_each_kind(rank: int) -> None:
    both = Both(rank)
    schedule = ScheduleGPipe(both.stage, CHUNKS, loss_fn=loss(loss_fn))
    ids, target = numbers(1, SAMPLES, LENGTH), numbers(2, SAMPLES, LENGTH)
    table, by = torch.randn(1, LENGTH, WIDTH), torch.rand(SAMPLES, LENGTH)
    names = [f"name {i}"[: 3 + i % 2] for i in range(SAMPLES)]
    given = {
        "ids": ids,
        "table": whole(table),
        "names": per_sample(names),
        "scale": 2.0,
        "more": {"by": [by]},
    }
    micro = [
        ({"ids": i, "table": table, "names": names[2 * k : 2 * k + 2], "scale": 2.0,
          "more": {"by": [b]}}, t)
        for k, (i, b, t) in enumerate(zip(parts(ids), parts(by), parts(target), strict=True))
    ]  # fmt: skip
    for _ in range(2):
        both.expect(both.call(schedule.step, given, target), micro)
    with torch.no_grad():
        both.expect(both.call(schedule.eval, given, target), micro)


def inputs_by_position(rank: int) -> None:
    both = Both(rank)
    schedule = Schedule1F1B(both.stage, CHUNKS, loss_fn=loss(loss_fn))
    ids, target = numbers(1, SAMPLES, LENGTH), numbers(2, SAMPLES, LENGTH)
    pairs = zip(parts(ids), parts(target), strict=True)
    micro = [({"ids": i, "scale": 0.5}, t) for i, t in pairs]
    found = both.call(schedule.step, {}, target, (ids, None, None, 0.5))
    both.expect(found, micro)


def chunk_specs(rank: int) -> None:
    both = Both(rank)
    spec = {"ids": TensorChunkSpec(1), "table": _Replicate()}
    schedule = Schedule1F1B(
        both.stage, CHUNKS, loss_fn=loss(loss_fn), kwargs_chunk_spec=spec if rank == 0 else None
    )
    ids, target = numbers(1, LENGTH, SAMPLES), numbers(2, SAMPLES, LENGTH)
    table = torch.randn(WIDTH)
    micro = [
        ({"ids": i, "table": table}, t)
        for i, t in zip(ids.tensor_split(CHUNKS, 1), parts(target), strict=True)
    ]
    both.expect(both.call(schedule.step, {"ids": ids, "table": table}, target), micro)


def targets_of_each_kind(rank: int) -> None:
    both = Both(rank)
    schedule = Schedule1F1B(both.stage, CHUNKS, loss_fn=loss(loss_fn))
    ids, target = numbers(1, SAMPLES, LENGTH), numbers(2, SAMPLES, LENGTH)
    micro = [({"ids": i}, t) for i, t in zip(parts(ids), parts(target), strict=True)]
    nested = {"y": (target,), "name": "y", "all": whole([1, 2])}
    for each in (per_sample(list(target)), nested):
        both.expect(both.call(schedule.step, {"ids": ids}, each), micro)


def loss_options(rank: int) -> None:
    both = Both(rank)
    schedule = Schedule1F1B(both.stage, CHUNKS, loss_fn=loss(loss_fn))
    ids, target = numbers(1, SAMPLES, LENGTH), numbers(2, SAMPLES, LENGTH)
    micro = [({"ids": i}, t) for i, t in zip(parts(ids), parts(target), strict=True)]
    options = {"label_smoothing": 0.25}
    found = both.call(schedule.step, {"ids": ids}, target, loss_kwargs=options)
    both.expect(found, micro, lambda output, t: loss_fn(output, t, **options))


def the_models_own_loss(rank: int) -> None:
    both = Both(rank)
    schedule = Schedule1F1B(both.stage, CHUNKS, loss_fn=loss())
    ids, labels = numbers(1, SAMPLES, LENGTH), numbers(2, SAMPLES, LENGTH)
    micro = [
        ({"ids": i, "labels": t}, None) for i, t in zip(parts(ids), parts(labels), strict=True)
    ]
    given = {"ids": ids, "labels": labels}
    found = both.call(schedule.step, given, torch.zeros(CHUNKS))
    both.expect(found, micro, lambda output, _: output.loss)


def unequal_micro_batches(rank: int) -> None:
    both = Both(rank, dynamic_shape=True)
    schedule = Schedule1F1B(both.stage, CHUNKS, loss_fn=loss(loss_fn))
    for samples in (10, 5):
        ids, target = numbers(1, samples, LENGTH), numbers(2, samples, LENGTH)
        names = [f"name {i}"[: 3 + i % 3] for i in range(samples)]
        chosen = [part.tolist() for part in parts(torch.arange(samples))]
        micro = [
            ({"ids": i, "names": [names[n] for n in own]}, t)
            for i, own, t in zip(parts(ids), chosen, parts(target), strict=True)
        ]
        given = {"ids": ids, "names": per_sample(names)}
        both.expect(both.call(schedule.step, given, target), micro)


def schedules_in_turn(rank: int) -> None:
    """Sizes and numbers of micro-batches differ, and one schedule has no loss."""
    both = Both(rank)
    schedules = [
        Schedule1F1B(both.stage, 4, loss_fn=loss(loss_fn)),
        ScheduleGPipe(both.stage, 2, loss_fn=loss(loss_fn)),
    ]
    for step in range(4):
        schedule, chunks = schedules[step % 2], (4, 2)[step % 2]
        shape = (SAMPLES + 4 * (step % 2), LENGTH + step % 2)
        ids, target = numbers(step, *shape), numbers(step + 9, *shape)
        micro = [
            ({"ids": i}, t) for i, t in zip(parts(ids, chunks), parts(target, chunks), strict=True)
        ]
        both.expect(both.call(schedule.step, {"ids": ids}, target), micro)
        with torch.inference_mode():
            both.expect(both.call(schedule.eval, {"ids": ids}, target), micro)
    without = ScheduleGPipe(both.stage, 2)
    ids = numbers(5, SAMPLES, 3)
    for run in (without.step, without.eval):
        outputs = run() if both.last else run(ids=ids)
        if both.last:
            with torch.no_grad():
                expected = [both.alone[1](**both.alone[0](i)).logits for i in parts(ids, 2)]
            assert [out.logits.grad_fn for out in outputs] == [None, None]
            assert all(map(torch.equal, [out.logits for out in outputs], expected))


def graphs_end_with_a_step(rank: int) -> None:
    """Outputs and losses that the caller keeps hold nothing of the step."""
    both = Both(rank)
    schedule = Schedule1F1B(both.stage, CHUNKS, loss_fn=loss(loss_fn))
    ids, target = numbers(1, SAMPLES, LENGTH), numbers(2, SAMPLES, LENGTH)
    kept = both.call(schedule.step, {"ids": ids}, target)
    gc.collect()
    if both.last:
        assert len(kept[0]) == CHUNKS
        assert [ref() for ref in both.module.activations] == [None] * CHUNKS
    nothing, losses = both.call(schedule.step, {"ids": ids}, target, return_outputs=False)
    assert nothing is None and len(losses) == (CHUNKS if both.last else 0)


CALLS: list[Callable[[int], None]] = [
    inputs_of_each_kind,
    inputs_by_position,
    chunk_specs,
    targets_of_each_kind,
    loss_options,
    the_models_own_loss,
    unequal_micro_batches,
    schedules_in_turn,
    graphs_end_with_a_step,
]


def run_calls(rank: Rank) -> int:
    """Run all on this rank, and return their number."""
    dist.init_process_group("gloo", rank=rank.rank, world_size=rank.world)
    for call in CALLS:
        rank.say(call.__name__)
        call(rank.rank)
    dist.destroy_process_group()
    return len(CALLS)
