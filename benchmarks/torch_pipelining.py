"""The cost on torch.distributed.pipelining: ``python -m benchmarks.torch_pipelining``.

Stages that do almost nothing, in pipecodec and by hand as plain tuples on torch's own stage, take
turns in the same processes, step by step. CPU time is that of a rank's own thread in a whole step;
it includes torch's schedule, which is the same in both.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class

import pipecodec
from benchmarks.boundary.cases import TIMED, Case
from benchmarks.boundary.ways import BY_HAND, PIPECODEC, bare_stages, tuple_stages
from pipecodec.demo.launch import Rank, run_ranks

__all__ = ["main"]

MICRO_BATCHES, WARM_UP_STEPS = 4, 3
SETTINGS = (("1F1B", 2), ("1F1B", 3), ("ZBVZeroBubble", 2))


class _Spread(nn.Module):
    """Hands the tensors that torch's stage gets one by one to a stage that takes a tuple."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *tensors: Tensor) -> Any:
        return self.stage(tensors[0] if len(tensors) == 1 and self.first else tensors)


def schedule_of(way: str, case: Case, name: str, rank: int, world: int) -> Any:
    """Return this rank's schedule, with its optimizer."""
    kind = get_schedule_class(name)
    several = issubclass(kind, PipelineScheduleMulti)
    own = [rank, 2 * world - 1 - rank] if several else [rank]
    count = world * len(own)
    stages: list[Any]
    if way == PIPECODEC:
        part = pipecodec.partition_modules(bare_stages(case, count), ["x"])
        stages = [pipecodec.pipelining.build_stage(part, index) for index in own]
        loss_fn: Any = pipecodec.pipelining.loss()
    else:
        modules = [_Spread(stage) for stage in tuple_stages(BY_HAND, case, count)]
        for index, module in enumerate(modules):
            module.first = index == 0
        stages = [PipelineStage(modules[i], i, count, torch.device("cpu")) for i in own]
        loss_fn = lambda output, target: output  # noqa: E731
    schedule = kind(stages if several else stages[0], MICRO_BATCHES, loss_fn=loss_fn)
    parameters = nn.ModuleList(stage.submod for stage in stages).parameters()
    return schedule, torch.optim.SGD(parameters, lr=2**-10)


def measured(rank: Rank, number: int, name: str, world: int, rounds: int) -> dict[str, Any]:
    """Run in every rank: return the CPU and wall time of each step by way, and the losses."""
    dist.init_process_group("gloo")
    case = TIMED[number]
    ways = {w: schedule_of(w, case, name, rank.rank, world) for w in (BY_HAND, PIPECODEC)}
    inputs = {"x": torch.ones(MICRO_BATCHES)} if rank.rank == 0 else {}
    found: dict[str, Any] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {way: [] for way in ways}
    gc.collect()
    gc.disable()
    for turn in range(WARM_UP_STEPS + rounds):
        for way in list(ways)[:: 1 if turn % 2 else -1]:
            schedule, optimizer = ways[way]
            own: list[Tensor] = []
            dist.barrier()
            cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
            args = () if way == PIPECODEC else tuple(inputs.values())
            schedule.step(
                *args,
                target=torch.ones(MICRO_BATCHES),
                losses=own,
                return_outputs=False,
                **(inputs if way == PIPECODEC else {}),
            )
            found[way].append((time.thread_time_ns() - cpu, time.perf_counter_ns() - wall))
            optimizer.step()
            optimizer.zero_grad()
            losses[way] += [loss.item() for loss in own]
    dist.destroy_process_group()
    return {"times": {way: steps[WARM_UP_STEPS:] for way, steps in found.items()}, "losses": losses}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print CPU and wall time of a step of pipecodec's stages beside stages by hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--cases", type=int, default=2, help="how many of the boundary's cases")
    options = parser.parse_args(arguments)
    print("CPU time of a rank for each micro-batch, by hand + added (us, medians), and its ratio;")
    print("wall time of a step / by hand\n")
    for number in range(options.cases):
        for name, world in SETTINGS:
            ended = run_ranks(measured, world, number, name, world, options.rounds, timeout=600)
            for outcome in ended:
                if outcome.status != "ok":
                    raise RuntimeError(outcome.detail)
                _show(TIMED[number], name, outcome.rank, world, outcome.value)


def _show(case: Case, name: str, rank: int, world: int, found: dict[str, Any]) -> None:
    hand, own = found["losses"][BY_HAND], found["losses"][PIPECODEC]
    if hand != own:
        raise RuntimeError(f"the losses differ: {hand[:3]} by hand, {own[:3]} in pipecodec")
    pairs = list(zip(found["times"][BY_HAND], found["times"][PIPECODEC], strict=True))
    by_hand = statistics.median(hand[0] for hand, _ in pairs) / 1000 / MICRO_BATCHES
    added = statistics.median(own[0] - hand[0] for hand, own in pairs) / 1000 / MICRO_BATCHES
    ratio = statistics.median(own[0] / hand[0] for hand, own in pairs)
    wall = statistics.median(own[1] / hand[1] for hand, own in pairs)
    where = f"{case.name}, {name}, rank {rank} of {world}"
    print(f"{where:80} {by_hand:6.0f} + {added:4.0f}  {ratio:.2f}   step {wall:.2f}")


if __name__ == "__main__":
    main()
