"""``eval_batch`` leaves training alone, and returns the outputs of the last stage's module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for, loss_fn
from .harness import values
from .rows import ROWS
from .stages import build
from .table import engine_of, micro_batches

TYPICAL, GRID = ROWS["checkpointing, reentrant"], Grid(2)


def train(rank: Rank, inference: bool) -> list[float]:
    row = replace(TYPICAL, config={})
    engine = engine_of(row, build(row, 2), GRID)
    losses = []
    for step in range(3):
        if inference:
            with torch.inference_mode():
                engine.eval_batch(micro_batches(row, GRID, step, evaluate=True))
        losses.append(engine.train_batch(micro_batches(row, GRID, step)).item())
    return losses


def test_inference_mode_before_training_changes_nothing() -> None:
    assert values(train, 2, True) == values(train, 2, False)


class Opaque:
    """An output that torch's pytree takes for a leaf."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Output(nn.Module):
    """A last stage whose output is none that an engine's checkpointing takes."""

    def __init__(self, kind: type = dict) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.kind = kind

    def forward(self, hidden: Tensor, value: Any) -> Any:
        logits = self.linear(hidden)
        if self.kind is Opaque:
            return Opaque(logits)
        return {"scale": 2.0, "logits": logits, "none": None, "kept": hidden.detach()}


def loss_of_dict(output: Any, labels: Any) -> Tensor:
    assert not output["kept"].requires_grad or labels["checkpointed"]
    return output["scale"] * loss_fn(output["logits"], labels["target"][0])


def loss_of_opaque(output: Any, labels: Any) -> Tensor:
    return 2.0 * loss_fn(output.logits, labels["target"][0])


def last_stage(rank: Rank, kind: type, interval: int, loss: Any) -> Any:
    """Train three steps; return the losses, and the last stage's logits of an evaluation."""

    def batches(step: int) -> Any:
        for batch in micro_batches(TYPICAL, GRID, step):
            labels = {"target": [batch["labels"], None], "checkpointed": interval > 0}
            yield {**batch, "labels": labels}

    torch.manual_seed(1)
    engine = engine_for(
        [build(TYPICAL, 2)[0], Output(kind)],
        GRID,
        inputs=["x", "ids"],
        loss_fn=loss,
        config={"pipeline": {"activation_checkpoint_interval": interval}},
    )
    losses = [engine.train_batch(batches(step)).item() for step in range(3)]
    loss, output = engine.eval_batch(batches(3), return_logits=True)
    if rank.rank == 0:
        return losses, None
    assert type(output) is kind
    return losses, (output["logits"] if kind is dict else output.logits).tolist()


@pytest.mark.parametrize("interval", [0, 1])
def test_last_stage_may_return_a_dict_and_labels_may_be_nested(interval: int) -> None:
    """With an output that the engine knows nothing of, as reference where it works."""
    expected = values(last_stage, 2, Opaque, 0, loss_of_opaque)
    assert values(last_stage, 2, dict, interval, loss_of_dict) == expected
    losses, logits = expected[1]
    assert losses[0] > losses[-1] and len(logits) == 4


def opaque_checkpointed(rank: Rank) -> str:
    with pytest.raises(Exception) as caught:
        last_stage(rank, Opaque, 1, loss_of_opaque)
    return str(caught.value)


def test_an_output_that_checkpointing_would_cut_off_is_refused() -> None:
    for message in values(opaque_checkpointed, 2):
        assert "loss: outputs is of type tests.distributed.test_evaluation.Opaque" in message
