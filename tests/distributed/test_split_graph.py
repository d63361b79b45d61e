"""A model that torch.distributed.pipelining split trains on the engine as in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipecodec.demo.launch import Rank
from tests.split_graphs import gpt2, pipe_of

from .engines import Grid, engine_for
from .harness import values

GRID, STEPS = Grid(2), 3


def batches() -> Iterator[dict[str, Tensor]]:
    for k in range(STEPS * GRID.accumulate):
        ids = torch.arange(16).reshape(2, 8) * (k + 1) % 50
        yield {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.flip(1)}


def first_value(output: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return output[0]


def train(rank: Rank) -> tuple[list[float], bool]:
    """Return the losses, and whether the stages' own weight is tied."""
    from pipecodec.stages.split_graph import partition_graph

    model = gpt2()
    pipe = pipe_of(model, next(batches()), ["transformer.h.2"])
    part = partition_graph(pipe, model)
    engine = engine_for(part, GRID, loss_fn=first_value)
    steps = batches()
    return [float(engine.train_batch(steps)) for _ in range(STEPS)], bool(part.tie_weights)


def reference() -> list[float]:
    model, losses, steps = gpt2(), [], batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        total = torch.zeros(())
        for _ in range(GRID.accumulate):
            loss = model(**next(steps)).loss
            (loss / GRID.accumulate).backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total / GRID.accumulate))
    return losses


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_pipe_trains_on_the_engine() -> None:
    expected = reference()
    for losses, tied in values(train, GRID.processes):
        assert tied
        assert losses == pytest.approx(expected, abs=1e-6)  # tied gradients are summed elsewhere
