"""Frames that are not read, on the engine: where one is another, all ranks raise and none steps."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pipecodec.demo.launch import Rank

from ..simdev import load
from .engines import Grid
from .harness import values
from .rows import ROWS
from .stages import build
from .table import RowTraining, engine_of, micro_batches, whole_rows

GRID, STEPS = Grid(3), RowTraining.steps
LAST = GRID.accumulate - 1
UNREAD = {"read": "verified", "values": "static"}
ROW = replace(ROWS["bypassed float with gradient"], options=UNREAD, sizes=(600,))
"""In evaluation smaller ones are in the frame, whose checksum covers them on the CPU."""


def stage_of(engine: Any) -> Any:
    (stage,) = engine.module.forward_funcs
    return stage


@functools.cache
def build_device() -> None:
    """Compile the simulated device before ranks, which have a deadline, load it."""
    subprocess.run([sys.executable, "-c", "from tests.simdev import load; load()"], check=True)


def simulate(engine: Any) -> None:
    """Let this rank's stage work on the simulated device; only messages are on the CPU."""
    load()
    wrapper = stage_of(engine)
    for linear in wrapper.mod.modules():
        if isinstance(linear, nn.Linear):
            linear.forward = functools.partial(on_device, linear)  # type: ignore[method-assign]

    def forward(tensors: tuple[torch.Tensor, ...]) -> Any:
        sent = wrapper(tuple(tensor.to("sim") for tensor in tensors))
        if wrapper.last and wrapper.ending.kept is not None:
            assert wrapper.ending.kept[-1].device.type == "sim"
            return sent
        assert {tensor.device.type for tensor in ((sent,) if wrapper.last else sent)} == {"sim"}
        return sent.cpu() if wrapper.last else tuple(tensor.cpu() for tensor in sent)

    engine.module.forward_funcs = [forward]


def on_device(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute with parameters that stay where the engine has them."""
    return nn.functional.linear(x, linear.weight.to("sim"), linear.bias.to("sim"))


def plant(codec: Any, micro_batch: int) -> None:
    """Change one bit of the structure in the frame of the codec's next such micro-batch."""
    send, sent = codec.send, []

    def send_another(*args: Any) -> Any:
        *tensors, frame = send(*args)
        sent.append(frame)
        if len(sent) == micro_batch + 1:
            frame = frame.clone()
            frame[50] ^= 1
        return (*tensors, frame)

    codec.send = send_another


def weights(engine: Any) -> list[list[float]]:
    return [parameter.flatten().tolist() for parameter in engine.module.parameters()]


def attempt(
    rank: Rank, boundary: int, micro_batch: int, evaluate: bool, simulated: bool, options: Any
) -> tuple[str, str]:
    """Train a step, then run a batch in which the frame of one boundary is another."""
    row = replace(ROW, options={**UNREAD, **options})
    engine = engine_of(row, build(row, 3), GRID)
    stage = stage_of(engine)
    if simulated:
        simulate(engine)
    run = engine.eval_batch if evaluate else engine.train_batch
    # One of the two kinds of evaluations for each micro-batch: a loss, or outputs.
    given = {"compute_loss": micro_batch == 0} if evaluate else {}
    run(micro_batches(row, GRID, 0), **given)
    before = weights(engine)
    if rank.rank == boundary:
        plant(stage.outgoing, micro_batch)
    with pytest.raises(Exception) as caught:
        run(micro_batches(row, GRID, 1), **given)
    assert weights(engine) == before
    assert rank.rank == 0 or stage.incoming.stats.reads == 1
    return type(caught.value).__name__, str(caught.value)


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("micro_batch", [0, LAST])
@pytest.mark.parametrize("boundary", [0, 1])
def test_every_rank_raises_and_none_steps(
    boundary: int, micro_batch: int, evaluate: bool, simulated: bool
) -> None:
    if simulated:
        build_device()
    results = values(attempt, 3, boundary, micro_batch, evaluate, simulated, {})
    names = [name for name, _ in results]
    assert names.pop(boundary + 1) == "StructureChangedError"
    assert names == ["RemoteError"] * 2
    for _, message in results:
        assert (
            f"boundary {boundary}→{boundary + 1}: frame {micro_batch} (0-based, since the last "
            "check) differs from the frame it was assumed to repeat: it is damaged: "
        ) in message


@pytest.mark.parametrize("boundary", [0, 1])
def test_ranks_tell_each_other_where_errors_are_not_shared(boundary: int) -> None:
    results = values(attempt, 3, boundary, LAST, False, False, {"share_errors": False})
    assert [name for name, _ in results] == ["StructureChangedError"] * 3
    messages = [message for _, message in results]
    assert f"boundary {boundary}→" in messages.pop(boundary + 1)
    for message in messages:
        assert message.startswith("on another rank a frame differs from the frame it was assumed")


def train(rank: Rank, read: str) -> tuple[Any, int]:
    row = replace(ROWS["bypassed float with gradient"], options={"read": read})
    engine = engine_of(row, build(row, 3), GRID)
    losses = [engine.train_batch(micro_batches(row, GRID, step)).item() for step in range(STEPS)]
    incoming = stage_of(engine).incoming
    return losses, incoming.stats.reads if rank.rank else 1


@pytest.mark.parametrize(("read", "reads"), [("verified", 1), ("auto", STEPS * GRID.accumulate)])
def test_training_is_the_same_read_or_not(read: str, reads: int) -> None:
    (expected,) = values(whole_rows, 1, "kinds", GRID)
    losses = expected["bypassed float with gradient"].losses
    assert values(train, 3, read) == [
        (losses, 1),
        (losses, reads),
        (losses, reads),
    ]
