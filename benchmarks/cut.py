"""The time that a cut adds: stages of ``partition`` beside stages by hand, and beside the model.

``python -m benchmarks.cut`` prints microseconds of CPU time of a forward without gradients, medians
of interleaved rounds, one thread. Stages by hand are the demo's (``pipecodec.demo.by_hand``); they
call Hugging Face's mask code in every forward, whose Python a cut stage replays as a few calls.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pipecodec.cutting.partition import partition
from pipecodec.demo.by_hand import cut_into_stages
from pipecodec.demo.models import build_model
from pipecodec.stages.partition import Partition, partition_modules
from pipecodec.stages.stage import Stage, bind_inputs

__all__ = ["main"]

STAGES = 3
ROUNDS = 300


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for GPT-2 and Llama."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cut", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args(arguments).rounds
    torch.set_num_threads(1)
    print("us of a forward | model | " + " | ".join(f"stage {k}" for k in range(STAGES)))
    for name in ("gpt2", "llama"):
        for label, times in measure(name, rounds).items():
            print(f"{name}, {label} | " + " | ".join(f"{t:.0f}" for t in times))


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Return the times of the model, and of each stage, cut and by hand, in microseconds."""
    model = build_model(name)
    inputs = _inputs()
    ways = {
        "by hand": (partition_modules(cut_into_stages(model, STAGES)), inputs),
        "cut": (partition(model, kwargs=inputs, n_stages=STAGES), inputs),
        "cut, masks sent": (
            partition(model, kwargs=inputs, n_stages=STAGES, recompute=False),
            inputs,
        ),
    }
    with torch.no_grad():
        calls: dict[tuple[str, int], Callable[[], Any]] = {
            ("the model", 0): lambda: model(**inputs)
        }
        for label, (part, given) in ways.items():
            for k, call in enumerate(_stage_calls(part, given)):
                calls[label, k] = call
        times = _interleaved(calls, rounds)
    table: dict[str, list[float]] = {}
    for (label, _), time_us in times.items():
        table.setdefault(label, []).append(time_us)
    return {label: us if label == "the model" else [sum(us), *us] for label, us in table.items()}


def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, -3:] = 0
    return {
        "input_ids": torch.randint(3, 97, (2, 12), generator=generator),
        "attention_mask": mask,
    }


def _stage_calls(part: Partition, inputs: dict[str, Any]) -> list[Callable[[], Any]]:
    """Return a call of each stage's module with the values that reach it."""
    calls = []
    values: Sequence[Any] = bind_inputs(part.input_names, (), inputs)
    for k, module in enumerate(part.stages):
        stage = Stage(part.liveness, part.stage_id_2_arg_names, k, outputs=part.outputs[k])
        env = stage.bind(values)
        positional, keyword = stage.arguments(env)
        calls.append(_call(module, positional, keyword))
        if k + 1 < len(part.stages):
            stage.name_outputs(env, calls[-1]())
            values = stage.collect(env, part.liveness[k + 1])
    return calls


def _call(module: nn.Module, positional: Any, keyword: Any) -> Callable[[], Any]:
    return lambda: module(*positional, **keyword)


def _interleaved(
    calls: dict[tuple[str, int], Callable[[], Any]], rounds: int
) -> dict[tuple[str, int], float]:
    times: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    order = random.Random(0)
    gc.disable()
    try:
        for _ in range(rounds):
            for key in order.sample(list(calls), len(calls)):
                calls[key]()  # warm
                start = time.thread_time_ns()
                calls[key]()
                times[key].append((time.thread_time_ns() - start) / 1e3)
    finally:
        gc.enable()
    return {key: statistics.median(values) for key, values in times.items()}


if __name__ == "__main__":
    main()
