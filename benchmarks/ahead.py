"""Lengths that change in each micro-batch: what each way to say them costs.

``python -m benchmarks.ahead`` trains the same stages on DeepSpeed's engine in several ways, in one
run and interleaved: frames ahead, sizes from the device, padded to the longest with static shapes
and with frames ahead, and, by hand, the stock engine's dynamic shapes and padded ones. Then it
times one message of a frame's size from host to host. On the CPU no device is waited for: the table
shows the hosts' own work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import pipecodec
from pipecodec.demo.launch import Rank, run_ranks
from pipecodec.engine.together import gathered
from pipecodec.roads import Wanted, open_roads

__all__ = ["main"]

STAGES, MICRO_BATCHES, ROWS, WIDTH, LONGEST = 3, 8, 4, 64, 128
BYTES = 512
"""Of one message: a frame of a few values."""

WAYS: dict[str, dict[str, Any]] = {
    "frames ahead": {"read": "ahead"},
    "sizes from the device": {"dynamic_shape": True, "read": "always"},
    "padded to the longest": {},
    "padded, frames ahead": {"read": "ahead"},
    "by hand, dynamic_shape": {"dynamic_shape": True},
    "by hand, padded": {},
}


class Stage(nn.Linear):
    """Works for a moment on each row."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).tanh()


def stages() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Stage(WIDTH, WIDTH) for _ in range(STAGES)]


def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
    return (output.mean(1) - labels).square().mean()


def micro_batches(step: int, padded: bool) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    made = []
    for _ in range(MICRO_BATCHES):
        length = int(torch.randint(LONGEST // 8, LONGEST + 1, (1,), generator=generator))
        x = torch.randn(ROWS, length, WIDTH, generator=generator)
        if padded:
            x = nn.functional.pad(x, (0, 0, 0, LONGEST - length))
        made.append((x, torch.zeros(ROWS, WIDTH)))
    return made


def engine_of(way: str) -> Any:
    config = {
        "train_micro_batch_size_per_gpu": ROWS,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": 0.0,
        "steps_per_print": 10**9,
    }
    given = {
        "config": config,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    }
    if not way.startswith("by hand"):
        part = pipecodec.partition_modules(stages())
        return pipecodec.deepspeed.initialize(part, loss_fn=loss_fn, **given, **WAYS[way])[0]
    import deepspeed

    module = deepspeed.pipe.PipelineModule(
        stages(), num_stages=STAGES, partition_method="uniform", loss_fn=loss_fn, **WAYS[way]
    )
    parameters = [p for p in module.parameters() if p.requires_grad]
    return deepspeed.initialize(model=module, model_parameters=parameters, **given)[0]


def train(rank: Rank, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return seconds, and seconds of this process's CPU, of each batch in each way."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    engines = {way: engine_of(way) for way in WAYS}
    for step in range(rounds + 2):
        order = list(WAYS)
        for way in order[step % len(order) :] + order[: step % len(order)]:
            batch = micro_batches(step, "padded" in way)
            dist.barrier()
            began, used = time.perf_counter(), time.process_time()
            engines[way].train_batch(iter(batch))
            if step >= 2:
                found[way].append((time.perf_counter() - began, time.process_time() - used))
    return found


def send(rank: Rank, messages: int) -> dict[str, tuple[float, float]]:
    """Return seconds, and CPU seconds of this side, of a message there or back in each way."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    peer, payload = 1 - rank.rank, bytes(BYTES)
    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for name, shared_memory in (("shared memory", True), ("Gloo, on this machine", False)):
        (sender,), (receiver,) = open_roads(
            [Wanted(name, peer)],
            [Wanted(name, peer)],
            lambda value: gathered(None, value),
            lambda: None,
            timeout=60.0,
            shared_memory=shared_memory,
        )
        ways[name] = (lambda sender=sender: sender.post(payload)), receiver.take
    objects: list[Any] = [None]
    ways["torch's object functions"] = (
        lambda: dist.send_object_list([payload], peer),
        lambda: dist.recv_object_list(objects, peer),
    )
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(5):
        for name, (post, take) in ways.items():
            dist.barrier()
            began, used = time.perf_counter(), time.process_time()
            for _ in range(messages):
                for act in (post, take) if rank.rank == 0 else (take, post):
                    act()
            each = 2 * messages
            times = time.perf_counter() - began, time.process_time() - used
            found[name].append((times[0] / each, times[1] / each))
    return {name: min(times) for name, times in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ahead")
    parser.add_argument("--rounds", type=int, default=40, help="batches in each way")
    parser.add_argument("--messages", type=int, default=2000, help="messages there and back")
    options = parser.parse_args(arguments)
    ranks = [each.value for each in _ended(train, STAGES, options.rounds)]
    base = "padded to the longest"
    print("| way | time of a micro-batch, ms | over padded, median | quartiles | CPU of all, ms |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        times = [each for each, _ in ranks[0][way]]
        over = sorted(own / other for own, (other, _) in zip(times, ranks[0][base], strict=True))
        quarter = len(over) // 4
        cpu = statistics.median(
            map(sum, zip(*([c for _, c in r[way]] for r in ranks), strict=True))
        )
        print(
            f"| {way} | {1e3 * statistics.median(times) / MICRO_BATCHES:.2f} "
            f"| {statistics.median(over):.2f} | {over[quarter]:.2f} to {over[-1 - quarter]:.2f} "
            f"| {1e3 * cpu / MICRO_BATCHES:.2f} |"
        )
    both = [each.value for each in _ended(send, 2, options.messages)]
    print(f"\n| message of {BYTES} bytes by | one way, us | CPU of both sides, us |\n|---|---|---|")
    for name, (seconds, _) in both[0].items():
        cpu = sum(side[name][1] for side in both)
        print(f"| {name} | {1e6 * seconds:.1f} | {1e6 * cpu:.1f} |")
    return 0


def _ended(function: Any, world: int, *args: Any) -> Any:
    ended = run_ranks(function, world, *args, timeout=900.0)
    for each in ended:
        if each.status != "ok":
            raise RuntimeError(f"rank {each.rank}: {each.status}\n{each.detail}")
    return ended


if __name__ == "__main__":
    raise SystemExit(main())
