"""Frames travel ahead of their tensors: all may change, and no device is waited for."""

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
    device, wrapper = load(), stage_of(engine)

    def forward(tensors: tuple[torch.Tensor, ...]) -> Any:
        there = tuple(tensor.to("sim") for tensor in tensors)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Linear, "forward", on_device)
            device.reset()
            sent = wrapper(there)
        counted.append(device.counts(*WAITS))
        if wrapper.last and wrapper.ending.kept is not None:
            return sent
        return sent.cpu() if wrapper.last else tuple(tensor.cpu() for tensor in sent)

    engine.module.forward_funcs = [forward]


def train(rank: Rank, options: dict[str, Any], way: str) -> tuple[Any, Any, Any]:
    """Train and evaluate; return this stage's weights, the outputs, and counts of waits."""
    boundary_roads.SHARED_MEMORY = way != "messages"
    engine = engine_of(options)
    counted: list[dict[str, int]] = []
    if way == "simulated":
        simulate(engine, counted)
    evaluated = []
    for batch, evaluation in zip(varying.batches(), varying.batches(evaluated=True), strict=True):
        given = [((x, lengths), labels) for x, lengths, labels in batch]
        engine.train_batch(iter(given))
        if way != "simulated":
            given = [((x, lengths), labels) for x, lengths, labels in evaluation]
            outputs = engine.eval_batch(iter(given), compute_loss=False) or []
            evaluated += [output.tolist() for output in outputs]
    return [p.tolist() for p in engine.module.parameters()], evaluated, counted


@functools.cache
def expected() -> tuple[list[Any], list[Any]]:
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
    weights, outputs = expected()
    ranks = values(train, 3, options, way)
    assert [own for own, *_ in ranks] == weights
    assert ranks[-1][1] == outputs


def test_no_stage_waits_for_its_device() -> None:
    """A stage's own waits are those of its weights, which the engine keeps on the CPU, and more."""
    build_device()
    ahead = [counted for *_, counted in values(train, 3, {"read": "ahead"}, "simulated")]
    always = {"dynamic_shape": True, "read": "always"}
    for rank, (_, _, read) in enumerate(values(train, 3, always, "simulated")):
        assert len(read) == len(ahead[rank]) == varying.BATCHES * varying.MICRO_BATCHES
        for unread, waited in zip(ahead[rank], read, strict=True):
            # The first stage reads its lengths itself; its batch's frame is on the host.
            assert unread["device to host"] == (rank == 0)
            more = {name: waited[name] - unread[name] for name in WAITS}
            assert set(more.values()) == {0 if rank == 0 else 1}


def refused(rank: Rank) -> list[str]:
    """Return the errors of settings that cannot hold."""
    config = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4}
    said = []
    for make, middles, given in (
        (pipecodec.deepspeed.initialize, 4, {"schedule": "dualpipev"}),
        (pipecodec.deepspeed.pipeline_module, 1, {"topology": pipelines(3)}),
    ):
        part = varying.partition(middles)
        try:
            make(part, loss_fn=varying.loss_fn, config=config, read="ahead", **given)
        except ValueError as error:
            said.append(str(error))
    return said


def pipelines(stages: int) -> Any:
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    return PipeDataParallelTopology(num_pp=stages, num_dp=1)


def test_settings_that_cannot_hold_are_refused() -> None:
    for said in values(refused, 3):
        assert len(said) == 2
        assert "read='ahead' can hold with schedule='dualpipev'" in said[0]
        assert 'read="ahead" needs pipecodec.deepspeed.initialize' in said[1]
