"""``pipecodec.deepspeed.initialize`` compares, refuses, corrects and resets settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import pipecodec
from pipecodec import FrameCapacityError, StructureChangedError
from pipecodec.deepspeed import RemoteError, initialize
from pipecodec.demo.launch import Rank

from .engines import Grid, join, loss_fn
from .harness import values
from .rows import ROWS
from .stages import Row, build
from .table import engine_of, micro_batches

GRID = Grid(3)
TYPICAL = ROWS["evaluation first and between"]
SIZED = Row(
    give=lambda first, x, ids: (first.extra(x),), take=lambda hidden, value: hidden + value[0]
)
LONGER = replace(SIZED, give=lambda first, x, ids: (first.extra(x), "text" * first.calls**3))


def disagree(rank: Rank, given: list[dict[str, Any]]) -> str:
    """Set up with this rank's changes to settings that work; return the error."""
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    join()
    settings = {"stages": 3, "config": {}, **given[rank.rank]}
    with pytest.raises(ValueError) as caught:
        initialize(
            pipecodec.partition_modules(list(build(TYPICAL, settings.pop("stages"))), ["x", "ids"]),
            topology=PipeDataParallelTopology(num_pp=3, num_dp=1),
            loss_fn=loss_fn,
            **settings,
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [{}, {"capacity": 512}, {}],
            "ranks differ in capacity: None on ranks 0, 2; 512 on rank 1; give all ranks the same",
        ),
        (
            [{}, {}, {"dynamic_shape": True}],
            "ranks differ in dynamic_shape: False on ranks 0, 1; True on rank 2; "
            "give all ranks the same",
        ),
        (
            [{"correct_clipping": False}, {}, {}],
            "ranks differ in correct_clipping: False on rank 0; True on ranks 1, 2; "
            "give all ranks the same",
        ),
        (
            [{"stages": 4}, {}, {}],
            "ranks differ in the number of stages: 4 on rank 0; 3 on ranks 1, 2; "
            "give all ranks the same",
        ),
        (
            [{"config": {"gradient_accumulation_steps": n, "wandb": {"n": n}}} for n in (2, 2, 3)],
            "ranks differ in the configuration's gradient_accumulation_steps: 2 on ranks 0, 1; "
            "3 on rank 2; give all ranks the same",
        ),
        (
            [{"config": {}}, {"config": {"bf16": {"enabled": True}}}, {"config": {}}],
            "ranks differ in the configuration's bf16.enabled: nothing on ranks 0, 2; "
            "True on rank 1; give all ranks the same",
        ),
    ],
)
def test_every_rank_is_told_that_settings_differ(given: list[dict[str, Any]], message: str) -> None:
    assert values(disagree, 3, given) == [message] * 3


def test_every_rank_is_told_that_the_number_of_stages_does_not_fit() -> None:
    message = "the topology has 3 pipeline stages, the partition 4"
    assert values(disagree, 3, [{"stages": 4}] * 3) == [message] * 3


def test_every_rank_is_told_that_one_has_no_configuration() -> None:
    messages = values(disagree, 2, [{"config": "e30="}, {"config": "ds_config.json"}])
    reason = "config is no mapping, no file, and no JSON in base64: ds_config.json"
    assert messages == [f"rank 1 cannot be set up: ValueError: {reason}", reason]


def grow(rank: Rank, size: int, options: dict[str, Any]) -> tuple[str, str, float]:
    """Train with batches of 4, then of ``size``; then once more after a reset on all ranks."""
    row = replace(LONGER if options else SIZED, options=options)
    engine = engine_of(row, build(row, 3), GRID)
    engine.train_batch(micro_batches(row, GRID, 0))
    other = replace(row, sizes=(size,))
    if size == 6:
        engine.reset_activation_shape()
        return "", "", engine.train_batch(micro_batches(other, GRID, 1)).item()
    with pytest.raises(Exception) as caught:
        engine.train_batch(micro_batches(other, GRID, 1))
    return type(caught.value).__name__, str(caught.value), 0.0


def test_change_of_shape_is_named_on_every_rank_before_anything_is_sent() -> None:
    first, *others = values(grow, 3, 5, {})
    assert first[0] == StructureChangedError.__name__
    assert [name for name, *_ in others] == [RemoteError.__name__] * 2
    for _, message, _ in (first, *others):
        assert (
            "boundary 0→1: hidden is float32 [5, 8] now and was float32 [4, 8] in the first "
            "micro-batch, and with static shapes all micro-batches have the first one's sizes; pad "
            "to one shape, or set dynamic_shape=True on all ranks, in "
            "pipecodec.deepspeed.initialize, pipecodec.pipelining.build_stage or pipecodec.Codec"
        ) in message


def test_frame_over_its_capacity_is_named_on_every_rank() -> None:
    first, *others = values(grow, 3, 4, {"capacity": 512})
    assert first[0] == FrameCapacityError.__name__
    assert [name for name, *_ in others] == [RemoteError.__name__] * 2
    for _, message, _ in (first, *others):
        assert "boundary 0→1: this frame needs" in message and "capacity=768" in message


def test_shapes_may_change_after_a_reset_on_all_ranks() -> None:
    losses = {loss for _, _, loss in values(grow, 3, 6, {})}
    assert len(losses) == 1 and losses.pop() > 0


def clip(rank: Rank, correct: bool) -> float:
    """The square of how far a step with clipped gradients moves this rank's parameters."""
    row = replace(
        TYPICAL, config={"gradient_clipping": 1e-3}, options={"correct_clipping": correct}
    )
    model = build(row, 3)
    engine = engine_of(row, model, GRID)
    before = [p.detach().clone() for p in engine.module.parameters()]
    engine.train_batch(micro_batches(row, GRID, 0))
    after = engine.module.parameters()
    return sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))


def moved(correct: bool) -> float:
    """The same of all parameters, in units of the learning rate and the norm to clip to."""
    return sum(values(clip, 3, correct)) ** 0.5 / (0.1 * 1e-3)


def test_clipping_counts_the_gradients_of_all_stages() -> None:
    assert moved(True) == pytest.approx(1.0, rel=1e-3)


def test_clipping_is_left_alone_if_asked_to() -> None:
    """Pin DeepSpeed's norm in fp32 without ZeRO: once it counts all stages, the tags can go."""
    assert moved(False) > 1.05
