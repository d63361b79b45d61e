"""Trainings of stages that share weights, as a pipeline and in one process."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import schedules
from torch.distributed.tensor import DTensor

import pipecodec
from pipecodec.demo.launch import Rank

__all__ = ["Case", "Trained", "batch_of", "build", "in_one_process", "loss_of", "on_ranks", "tied"]

VOCABULARY, WIDTH, SAMPLES, MICRO_BATCHES = 11, 6, 12, 6

SCHEDULES: dict[str, tuple[Any, int]] = {
    "GPipe": (schedules.ScheduleGPipe, 1),
    "1F1B": (schedules.Schedule1F1B, 1),
    "Interleaved1F1B": (schedules.ScheduleInterleaved1F1B, 2),
    "LoopedBFS": (schedules.ScheduleLoopedBFS, 2),
    "InterleavedZeroBubble": (schedules.ScheduleInterleavedZeroBubble, 2),
    "ZBVZeroBubble": (schedules.ScheduleZBVZeroBubble, 2),
    "DualPipeV": (schedules.ScheduleDualPipeV, 2),
}
"""By name: the class, and the number of stages of a rank."""


@dataclass(frozen=True)
class Case:
    """``places`` are the stages with the weight, ``active`` those that use it, by step and replica.

    ``parallel`` says how replicas are kept equal: "DDP" or "FSDP", with ", unused"
    where one may not use the weight.
    """

    schedule: str = "1F1B"
    places: tuple[int, ...] = (0, -1)
    copied: bool = False
    active: tuple[tuple[int, ...], ...] = ()
    sparse: bool = False
    frozen: bool = False
    optimizer: Any = torch.optim.AdamW
    steps: int = 4
    accumulate: int = 1
    scale_grads: bool = True
    set_to_none: bool = True
    micro_batches: int = MICRO_BATCHES
    clip: float | None = None
    ranks: int = 3
    replicas: int = 1
    parallel: str = ""

    @property
    def stages(self) -> int:
        return self.ranks * SCHEDULES[self.schedule][1]

    @property
    def tied(self) -> list[int]:
        return [place % self.stages for place in self.places]

    def activate(self, stages: Mapping[int, nn.Module], step: int, replica: int) -> None:
        """Let the stages use the weight, or not."""
        chosen = self.places
        if self.active:
            chosen = self.active[(step * self.replicas + replica) % len(self.active)]
        for index, stage in stages.items():
            stage.active = index in [place % self.stages for place in chosen]

    def own_stages(self, rank: int) -> list[int]:
        """Return the stages of a rank, as the schedule places them."""
        if SCHEDULES[self.schedule][1] == 1:
            return [rank]
        v = self.schedule in ("ZBVZeroBubble", "DualPipeV")
        return [rank, 2 * self.ranks - 1 - rank if v else self.ranks + rank]


class Stage(nn.Module):
    """A stage that may use a tied weight (vocabulary, width); the last one gives logits."""

    def __init__(self, case: Case, index: int, weight: nn.Parameter | None) -> None:
        super().__init__()
        first, self.last = index == 0, index == case.stages - 1
        self.start = nn.Embedding(VOCABULARY, WIDTH) if first else None
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.end = nn.Linear(WIDTH, VOCABULARY) if self.last else None
        self.weight = weight
        self.sparse = case.sparse
        self.active = weight is not None

    def forward(self, ids: Tensor, hidden: Tensor | None = None) -> Any:
        if hidden is None:
            hidden = self.start(ids)
        hidden = hidden + self.linear(hidden).tanh()
        if self.active and not self.last:
            hidden = hidden + nn.functional.embedding(ids, self.weight, sparse=self.sparse)
        if not self.last:
            return {"hidden": hidden}
        logits = self.end(hidden)
        return logits + hidden @ self.weight.T if self.active else logits


@dataclass
class Trained:
    """``weights`` by (stage, name); ``missing`` have no gradient, by step."""

    weights: Mapping[tuple[int, str], Any]
    missing: Sequence[frozenset[tuple[int, str]]]
    norms: Sequence[float]


def build(case: Case) -> list[Stage]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(VOCABULARY, WIDTH, dtype=torch.float64) / 4)
    weight.requires_grad_(not case.frozen)
    stages = [Stage(case, k, weight if k in case.tied else None) for k in range(case.stages)]
    return [stage.double() for stage in stages]


def tied(case: Case) -> pipecodec.Partition:
    """Return the stages as a partition, each with a copy of the weight if they are copied."""
    stages = build(case)
    if case.copied:
        stages = [copy.deepcopy(stage) for stage in stages]
    return pipecodec.partition_modules(
        stages,
        inputs=["ids"],
        outputs=[["hidden"]] * case.stages,
        ties=[[("weight", place) for place in case.tied]] if case.copied else (),
    )


def batch_of(step: int, replica: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2 * step + replica)
    ids, target = torch.randint(0, VOCABULARY, (2, SAMPLES, 3), generator=generator)
    return ids, target


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def in_one_process(case: Case) -> Trained:
    stages = build(case)
    parameters = list(nn.ModuleList(stages).parameters())

    def run(step: int) -> None:
        count = case.micro_batches
        for replica in range(case.replicas):
            case.activate(dict(enumerate(stages)), step, replica)
            ids, target = batch_of(step, replica)
            for part, wanted in zip(ids.chunk(count), target.chunk(count), strict=True):
                hidden: Any = None
                for stage in stages:
                    output = stage(part, hidden)
                    hidden = output["hidden"] if isinstance(output, dict) else output
                divisor = (count if case.scale_grads else 1) * case.replicas
                (loss_of(hidden, wanted) / divisor).backward()

    def clip(norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, norm)

    return _train(case, dict(enumerate(stages)), run, clip)


def on_ranks(rank: Rank, cases: Mapping[str, Case]) -> dict[str, Trained]:
    dist.init_process_group(rank.backend)
    found = {}
    for name, case in cases.items():
        rank.say(name)
        found[name] = _on_ranks(rank, case)
    return found


def _on_ranks(rank: Rank, case: Case) -> Trained:
    part = tied(case)
    mesh = init_device_mesh("cpu", (case.ranks, case.replicas), mesh_dim_names=("pp", "dp"))
    place, replica = mesh.get_coordinate()
    own = case.own_stages(place)
    modules = {index: part.stages[index] for index in own}
    for index, module in modules.items():
        part.stages[index] = _replicated(module, case.parallel, mesh["dp"])
    group = mesh["pp"].get_group() if case.replicas > 1 else None
    stages = [pipecodec.pipelining.build_stage(part, index, group=group) for index in own]
    kind, count = SCHEDULES[case.schedule]
    schedule = kind(
        stages[0] if count == 1 else stages,
        case.micro_batches,
        loss_fn=pipecodec.pipelining.loss(loss_of),
        scale_grads=case.scale_grads,
    )

    def run(step: int) -> None:
        case.activate(modules, step, replica)
        ids, target = batch_of(step, replica)
        schedule.step(*([ids] if place == 0 else []), target=target)

    def clip(norm: float) -> Tensor:
        return pipecodec.pipelining.clip_grad_norm_(stages, norm)

    return _train(case, modules, run, clip, lambda: pipecodec.pipelining.sum_tied_gradients(stages))


def _replicated(module: nn.Module, parallel: str, mesh: DeviceMesh) -> nn.Module:
    if parallel.startswith("DDP"):
        unused = parallel == "DDP, unused"
        return nn.parallel.DistributedDataParallel(
            module, process_group=mesh.get_group(), find_unused_parameters=unused
        )
    if parallel.startswith("FSDP"):
        fully_shard(module.linear, mesh=mesh)
        fully_shard(module, mesh=mesh)
        module.set_reduce_scatter_unused_params(parallel == "FSDP, unused")
    return module


def _train(
    case: Case, stages: Mapping[int, nn.Module], run: Any, clip: Any, summed: Any = lambda: None
) -> Trained:
    named = {
        (index, name): parameter
        for index, stage in stages.items()
        for name, parameter in stage.named_parameters()
    }
    optimizer = case.optimizer(list({id(p): p for p in named.values()}.values()))
    missing, norms = [], []
    for step in range(case.steps):
        run(step)
        if (step + 1) % case.accumulate:
            continue
        summed()
        summed()
        missing.append(frozenset(where for where, p in named.items() if p.grad is None))
        if case.clip is not None:
            norms.append(float(clip(case.clip)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=case.set_to_none)
    weights = {where: _whole(p.detach()).numpy() for where, p in named.items()}
    return Trained(weights, missing, norms)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
