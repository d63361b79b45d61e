"""The demo's training on torch's schedules, beside one process."""

from __future__ import annotations

import pytest
import torch

from pipecodec.demo.device import place
from pipecodec.demo.launch import Rank
from pipecodec.demo.report import (
    LIMIT,
    TIED_LIMIT,
    copy_difference,
    loss_difference,
    summary,
    weight_difference,
)
from pipecodec.demo.settings import Settings
from pipecodec.demo.train import Trained, train_pipeline, train_whole
from tests.distributed.harness import values

SMALL = {"stages": 2, "steps": 3, "batch": 2, "length": 32, "engine": "torch", "device": "cpu"}
TRAININGS = (
    Settings(model="llama", **SMALL),
    Settings(model="gpt2", by_hand=True, attention="eager", **SMALL),
    Settings(model="gpt2", tied=True, **SMALL),
)


def all_on_stages(rank: Rank) -> list[Trained]:
    return [train_pipeline(rank, settings) for settings in TRAININGS]


def all_whole(rank: Rank) -> list[Trained]:
    return [train_whole(rank, settings) for settings in TRAININGS]


def test_stages_train_as_one_process_does() -> None:
    pipelines = zip(*values(all_on_stages, 2), strict=True)
    (wholes,) = values(all_whole, 1)
    for settings, stages, whole in zip(TRAININGS, pipelines, wholes, strict=True):
        assert len(whole.losses) == settings.steps
        assert whole.losses[-1] < whole.losses[0]
        assert loss_difference(stages, whole) <= (TIED_LIMIT if settings.tied else LIMIT)
        if settings.tied:
            assert copy_difference(stages) == 0.0
        else:
            assert weight_difference(stages, whole) == 0.0
            assert loss_difference(stages, whole) == 0.0
        shown = summary(stages, whole)
        assert "From stage 0 to stage 1" in shown
        assert "float32 [2, 32, 128], 32,768 bytes, in the tunnel" in shown
        assert "In all: 12 frames sent" in shown


def test_needs_a_gpu_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert place("auto", 2, "torch").backend == "nccl"
    assert place("auto", 3, "deepspeed").staged
    with pytest.raises(ValueError, match="a GPU for each of the 3 stages, and torch sees 2; use"):
        place("auto", 3, "torch")
