"""Changes that a user may make between two batches of one engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank
from pipecodec.engine import boundary_roads

from .engines import Grid
from .harness import values
from .rows import ROWS
from .stages import WIDTH, Row, build
from .table import engine_of, micro_batches

GRID = Grid(3)
ROW = replace(ROWS["checkpointing, reentrant"], config={})
"""A value of which one tensor is worked on in place."""

ALONE = Row(sizes=(2,))
"""A hidden state alone, of 64 bytes: which stage used it goes from host to host."""


def losses_of(engine: Any, row: Any, steps: range) -> list[float]:
    return [engine.train_batch(micro_batches(row, GRID, step)).item() for step in steps]


def checkpointed(rank: Rank, interval: int, options: dict[str, Any]) -> list[float]:
    row = replace(ROW, options=options)
    engine = engine_of(row, build(row, 3), GRID)
    losses = losses_of(engine, row, range(2))
    engine.module.activation_checkpoint_interval = interval  # without its set_checkpoint_interval
    losses += losses_of(engine, row, range(2, 4))
    losses.append(engine.eval_batch(micro_batches(row, GRID, 4, evaluate=True)).item())
    engine.module.set_checkpoint_interval(0)
    return losses + losses_of(engine, row, range(4, 6))


@pytest.mark.parametrize("options", [{}, {"dynamic_shape": True}])
def test_checkpointing_may_be_turned_on_and_off(options: dict[str, Any]) -> None:
    """In-place operations of a stage ran twice, and training went wrong without a word."""
    assert values(checkpointed, 3, 1, options) == values(checkpointed, 3, 0, options)


def frozen_later(rank: Rank, freeze: bool) -> list[float]:
    """Freeze the first stage after a step, or else undo its later steps."""
    engine = engine_of(ROW, build(ROW, 3), GRID)
    losses = losses_of(engine, ROW, range(1))
    parameters = list(engine.module.parameters()) if rank.rank == 0 else []
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(not freeze)
    for step in range(1, 4):
        if freeze and step == 2:
            engine.reset_activation_shape()
        losses += losses_of(engine, ROW, range(step, step + 1))
        now = zip(parameters, before, strict=True)
        assert rank.rank != 0 or freeze is all(torch.equal(*pair) for pair in now)
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                parameter.copy_(kept)
    for parameter in parameters:
        parameter.requires_grad_()
    engine.reset_activation_shape()
    return losses + losses_of(engine, ROW, range(4, 6))


def test_the_first_stage_may_be_frozen_for_a_while() -> None:
    assert values(frozen_later, 3, True) == values(frozen_later, 3, False)


def logits_without_a_loss(rank: Rank) -> list[Any]:
    engine = engine_of(ROW, build(ROW, 3), GRID)
    outputs: list[Any] = []
    for loss in (True, False, True):
        batches = micro_batches(ROW, GRID, 0, evaluate=True)
        found = engine.eval_batch(batches, compute_loss=loss, reduce_output=None, bcast_loss=False)
        outputs.append(None if found is None else [output.tolist() for output in found])
    losses_of(engine, ROW, range(1))
    return outputs


def test_evaluation_may_be_with_and_without_a_loss() -> None:
    *others, last = values(logits_without_a_loss, 3)
    assert others == [[None] * 3] * 2
    assert last[0] == last[2] and last[0] != last[1]


class Normed(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), norm(WIDTH, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.linear(x).unflatten(0, (-1, 2)).transpose(1, 2)  # batch, channels, 2
        return self.norm(pairs).transpose(1, 2).flatten(0, 1)


def statistics(rank: Rank, interval: int, reentrant: bool, norm: type[nn.Module]) -> Any:
    torch.manual_seed(2)
    stages = [Normed(norm), nn.Linear(WIDTH, 3)]
    config = {"pipeline": {"activation_checkpoint_interval": interval, "use_reentrant": reentrant}}
    engine = engine_of(Row(config=config), nn.ModuleList(stages), Grid(2))
    for step in range(2):
        engine.train_batch(micro_batches(ROW, Grid(2), step))
    return {name: buffer.tolist() for name, buffer in stages[0].named_buffers()}


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_a_recomputed_stage_counts_statistics_once(norm: type[nn.Module]) -> None:
    """Each batch was counted twice, as with torch's own checkpointing."""
    once, *_ = values(statistics, 2, 0, True, norm)
    counted = 2 * Grid(2).accumulate if norm is nn.BatchNorm1d else 0
    assert once["norm.num_batches_tracked"] == counted
    for reentrant in (True, False):
        assert values(statistics, 2, 1, reentrant, norm)[0] == once


def still_sending(rank: Rank) -> list[int]:
    """Return after each batch how many messages were sent, and how many not waited for.

    As on a device, where flags of unused leaves go from host to host: the engine's own messages are
    no matter of ours.
    """
    from pipecodec.deepspeed import setup

    setup.read_from_gradients = lambda engine: False
    boundary_roads.SHARED_MEMORY = False
    under_way: list[Any] = []
    send = torch.distributed.isend

    def isend(*args: Any, **kwargs: Any) -> Any:
        under_way.append(send(*args, **kwargs))
        return under_way[-1]

    torch.distributed.isend = isend
    engine = engine_of(ALONE, build(ALONE, 3), GRID)
    counts = []
    for step in range(3):
        losses_of(engine, ALONE, range(step, step + 1))
        counts += [len(under_way), sum(not work.is_completed() for work in under_way)]
    return counts


def test_no_message_of_a_batch_is_under_way_after_it() -> None:
    """torch's profiler, stopped between two batches, was written to where it had freed memory."""
    sends = [GRID.accumulate * step for step in (1, 2, 3)]
    first, *others = values(still_sending, 3)
    assert first == [0] * 6
    assert others == [[n for count in sends for n in (count, 0)]] * 2
