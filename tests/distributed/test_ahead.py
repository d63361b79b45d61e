"""Frames travel ahead of their tensors: all may change in each micro-batch, and no device is read."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import pipecodec
from pipecodec.demo.launch import Rank
from pipecodec.engine import boundary_roads
from tests import varying
from tests.simdev import load

from .harness import values
from .test_verified import build_device, on_device, stage_of

WAITS = ("device to host", "sync")


def engine_of(options: dict[str, Any]) -> Any:
    config = {
        "train_micro_batch_size_per_gpu": varying.ROWS,
        "gradient_accumulation_steps": varying.MICRO_BATCHES,
        "gradient_clipping": 0.0,
    }
    return pipecodec.deepspeed.initialize(
        varying.partition(),
        loss_fn=varying.loss_fn,
        config=config,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        **options,
    )[0]


def simulate(engine: Any, counted: list[dict[str, int]]) -> None:
    """Let this rank's stage work on the simulated device, and count what it waits for."""
    device = load()
    wrapper = stage_of(engine)
    wrapper.mod.forward.__func__.__globals__  # noqa: B018 - the module's own forward stays
    linear = torch.nn.Linear.forward
    assert isinstance(wrapper.mod, torch.nn.Linear)

    def forward(tensors: tuple[torch.Tensor, ...]) -> Any:
        there = tuple(tensor.to("sim") for tensor in tensors)
        torch.nn.Linear.forward = on_device  # type: ignore[method-assign, assignment]
        try:
            device.reset()
            sent = wrapper(there)
            counted.append(device.counts(*WAITS))
        finally:
            torch.nn.Linear.forward = linear  # type: ignore[method-assign]
        return sent.cpu() if isinstance(sent, torch.Tensor) else tuple(t.cpu() for t in sent)

    engine.module.forward_funcs = [forward]


def train(rank: Rank, options: dict[str, Any], way: str) -> tuple[Any, Any, Any]:
    """Train and evaluate; return this stage's weights, the losses, and counts of waits."""
    boundary_roads.SHARED_MEMORY = way != "messages"
    engine = engine_of(options)
    counted: list[dict[str, int]] = []
    if way == "simulated":
        simulate(engine, counted)
    evaluated = []
    for batch in varying.batches():
        given = [((x, lengths), labels) for x, lengths, labels in batch]
        engine.train_batch(iter(given))
        for each in given if way != "simulated" else []:
            # One micro-batch at a time, each of another length.
            engine.micro_batches, before = 1, engine.micro_batches
            evaluated.append(engine.eval_batch(iter([each])).cpu())
            engine.micro_batches = before
    return list(stage_of_weights(engine)), evaluated, counted


def stage_of_weights(engine: Any) -> Any:
    return [parameter.detach().cpu() for parameter in engine.module.parameters()]


@functools.cache
def expected() -> tuple[list[list[torch.Tensor]], list[torch.Tensor]]:
    return varying.trained()


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"read": "ahead"}, "shared memory"),
        ({"dynamic_shape": True}, "messages"),
        ({"dynamic_shape": True, "read": "always"}, "shared memory"),
    ],
)
def test_trains_as_in_one_process(options: dict[str, Any], way: str) -> None:
    weights, losses = expected()
    for rank, (own, evaluated, _) in enumerate(values(train, 3, options, way)):
        for got, wanted in zip(own, weights[rank], strict=True):
            assert torch.equal(got, wanted)
        assert [loss.item() for loss in evaluated] == [loss.item() for loss in losses]
