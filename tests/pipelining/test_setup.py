"""The form of stages, schedules and batches, told before anything is sent; in one process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.pipelining.microbatch import TensorChunkSpec

import pipecodec
from pipecodec import pipelining
from pipecodec.pipelining.splitting import refuse_unsplit

from .planted import mse, partition

COUNT = 2
"""Micro-batches of a step."""


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def build(part: Any = None, index: int = 0, **options: Any) -> Any:
    return pipelining.build_stage(part or partition(1), index, share_errors=False, **options)


def schedule(stage: Any = None, **changes: Any) -> ScheduleGPipe:
    given = {"loss_fn": pipelining.loss(mse), **changes}
    return ScheduleGPipe(stage or build(), COUNT, **given)


def batch(**changes: Any) -> dict[str, Any]:
    given = {
        "x": torch.ones(4, 4),
        "scale": 0.5,
        "ids": torch.arange(4),
        "target": torch.ones(4, 4),
    }
    given.update(changes)
    return {name: value for name, value in given.items() if value is not None}


@pytest.mark.usefixtures("alone")
class TestStages:
    def test_there_is_no_such_stage(self) -> None:
        with pytest.raises(ValueError, match="stage_index=2: the partition has the stages 0 to 1"):
            build(partition(2), 2)

    def test_its_memory_is_not_there_yet(self) -> None:
        with torch.device("meta"):
            part = partition(1)
        with pytest.raises(ValueError, match="linear.weight of stage 0 is on the meta device"):
            build(part)

    def test_the_model_was_observed_in_another_precision(self) -> None:
        x = torch.ones(2, 4)
        part = pipecodec.partition(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), (x,), n_stages=2
        )
        part.stages[0].double()
        with pytest.raises(ValueError, match="stage 0 is float64, but the model was observed with"):
            build(part)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"differentiable": "never"}, "differentiable"),
            ({"read": "never"}, "read"),
            ({"dynamic_shape": 1}, "dynamic_shape must be True or False"),
            ({"capacity": -1}, "capacity"),
        ],
    )
    def test_an_option_has_no_such_value(self, option: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build(**option)


def test_torch_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.12.1+cpu")
    with pytest.raises(RuntimeError, match=r"needs torch 2.13 or newer, this is 2.12.1\+cpu; upgr"):
        build()


def test_the_ranks_have_not_met() -> None:
    with pytest.raises(ValueError, match="torch.distributed is not initialized"):
        build()


@pytest.mark.usefixtures("alone")
class TestSchedules:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: schedule(loss_fn=mse),
                r"give the schedule loss_fn=pipecodec.pipelining.loss\(loss_fn\)",
            ),
            (lambda: schedule(output_merge_spec={}), "output_merge_spec has no say"),
            (lambda: schedule(build(partition(2))), "stage 1 was built on no rank"),
        ],
    )
    def test_it_does_not_fit(self, make: Callable[[], Any], message: str) -> None:
        made = make()
        for call in made.step, made.eval:
            with pytest.raises(ValueError, match=message):
                call(**batch())

    def test_it_is_torchs_own(self) -> None:
        """The loss of ours would otherwise compare another thing than the model's output."""
        stage = PipelineStage(nn.Linear(4, 4), 0, 1, torch.device("cpu"))
        with pytest.raises(ValueError, match="for schedules whose stages were made by"):
            schedule(stage).step(torch.ones(4, 4), target=torch.ones(4, 4))

    def test_stages_have_no_schedule(self) -> None:
        with pytest.raises(RuntimeError, match="stage 0 runs in a schedule of torch.distributed"):
            build().forward_one_chunk(0, (), batch())

    def test_it_is_a_class_of_the_users(self) -> None:
        """A subclass with a step of its own."""

        class Own(ScheduleGPipe):
            def step(self, *args: Any, **kwargs: Any) -> Any:
                return super().step(*args, scale=0.5, **kwargs)

        made = Own(build(), COUNT, loss_fn=pipelining.loss(mse))
        losses: list[Any] = []
        made.step(**batch(scale=None), losses=losses)
        assert len(losses) == COUNT
        with pytest.raises(ValueError, match="has to pass target="):
            made.step(**batch(scale=None, target=None))

    def test_without_a_loss_function(self) -> None:
        outputs = schedule(loss_fn=None).step(**batch(target=None))
        assert [output["ids"].tolist() for output in outputs] == [[0, 1], [2, 3]]


@pytest.mark.usefixtures("alone")
def test_calls_between_steps_want_stages() -> None:
    with pytest.raises(ValueError, match="these are no stages of pipecodec.pipelining.build_stage"):
        pipelining.sum_tied_gradients([nn.Linear(4, 4)])
    part = partition(2)
    stages = [build(part, 0), build(part, 1)]
    pipelining.sum_tied_gradients(stages[:2])
    with pytest.raises(ValueError, match=r"this rank has the stages \[0, 1\], but \[0\] are given"):
        pipelining.sum_tied_gradients(stages[0])
    pipelining.sum_tied_gradients(stages[:2])


BATCHES = {
    "no target": ({"target": None}, "the rank of the last stage has to pass target="),
    "a list as target": ({"target": [1, 2]}, r"target is a list.*per_sample\(\[...\]\)"),
    "one number as target": (
        {"target": torch.tensor(1.0)},
        "target is a tensor without dimensions",
    ),
    "a small target": ({"target": torch.ones(1, 4)}, "target has 1 samples.* 2 micro-batches"),
    "a small batch": (
        {"x": torch.ones(1, 4), "ids": torch.ones(1)},
        "x has 1 samples along its first dimension, fewer than the schedule's 2 micro-batches",
    ),
    "no dimensions": ({"scale": torch.tensor(0.5)}, r"scale is a tensor without.*whole\(scale\)"),
    "no dimensions, within": ({"scale": [torch.tensor(0.5)]}, r"scale\[0\] is a tensor without"),
    "a table": ({"ids": torch.ones(1, 9)}, r"4 samples of x, but 1 of ids.*pipelining.whole\("),
    "a shorter list": ({"ids": pipelining.per_sample(["a"])}, "4 samples of x, but 1"),
    "an unknown input": ({"y": 1}, "'y' is not an input of the model"),
    "no x": ({"x": None}, "x"),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_does_not_fit(name: str) -> None:
    """Others get through before and after it."""
    changes, message = BATCHES[name]
    made = schedule()
    for _ in range(2):
        with pytest.raises((ValueError, TypeError, KeyError), match=message):
            made.step(**batch(**changes))
        made.step(**batch())
        made.eval(**batch())


def test_a_batch_that_does_not_make_equal_micro_batches() -> None:
    inputs = {"x": torch.ones(5, 4), "ids": [torch.ones(5)]}
    refuse_unsplit(inputs, 2, evenly=False)
    refuse_unsplit(inputs, 5, evenly=True)
    with pytest.raises(
        ValueError, match=r"x has 5 samples.*2 micro-batches of one size.*drop_last"
    ):
        refuse_unsplit(inputs, 2, evenly=True)


@pytest.mark.usefixtures("alone")
def test_batches_that_are_split_as_the_user_says() -> None:
    turned = schedule(args_chunk_spec=(TensorChunkSpec(1),))
    turned.eval(torch.ones(4, 8), ids=torch.arange(2), scale=0.5, target=torch.ones(8, 4))
    whole = pipelining.whole
    schedule().step(**batch(scale=whole(torch.tensor(0.5)), ids=whole(torch.ones(1, 9))))
    schedule().step(torch.ones(4, 4), torch.arange(4), 0.5, target=torch.ones(4, 4))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda *_: 3, "the loss is a int"),
        (lambda *_: None, "the loss is a NoneType"),
        (lambda output, _: output["y"].sum(1), r"the loss has shape \[2\]"),
        (lambda *_: torch.tensor(3), "the loss has dtype int64"),
    ],
)
def test_a_loss_is_no_number(loss_fn: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(loss_fn=pipelining.loss(loss_fn)).step(**batch())


@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have notes from Python 3.11 on")
def test_an_error_of_the_loss_function_tells_of_its_arguments() -> None:
    wrong = pipelining.loss(nn.functional.cross_entropy)
    with pytest.raises(TypeError) as caught:
        schedule(loss_fn=wrong).step(**batch())
    (said,) = caught.value.__notes__
    assert said.startswith("(loss_fn got the last stage's output, of type dict, and the labels, of")


@pytest.mark.usefixtures("alone")
def test_more_ranks_than_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    with pytest.raises(ValueError, match="3 ranks are too many for one pipeline of 2 stages"):
        build(partition(2))
