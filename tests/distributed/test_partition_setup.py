"""``initialize`` compares, refuses and turns on settings for a model that ``partition`` cut."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

import pipecodec
from pipecodec import Partition
from pipecodec.deepspeed import initialize, model_state_dict
from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for, join
from .harness import values
from .observed_models import Observed

TWO = Grid(2)


def cut(case: Observed, model: Any = None, **options: Any) -> Partition:
    batch = case.batch(1, rows=2, length=12, padded=True)
    return pipecodec.partition(case.build() if model is None else model, kwargs=batch, **options)


def refused(rank: Rank) -> list[str]:
    """Set up what cannot train; return the errors."""
    join()
    case = Observed("block residuals", TWO)
    part = cut(case, n_stages=2, verify=False)
    half = cut(case, case.build().bfloat16(), n_stages=2, verify=False)
    other = cut(case, split=[f"layers.{3 + rank.rank}"], verify=False)
    config = {"train_micro_batch_size_per_gpu": 1}
    errors = []
    for each, settings in (
        (part, {**config, "bf16": {"enabled": True}}),
        (part, {**config, "fp16": {"enabled": True}}),
        (half, config),
        (other, config),
    ):
        with pytest.raises(ValueError) as caught:
            initialize(each, config=settings)
        errors.append(str(caught.value))
    return errors


def test_another_precision_or_cut_is_refused_on_all_ranks() -> None:
    for bf16, fp16, fp32, other in values(refused, 2):
        assert bf16 == (
            "the engine trains in bfloat16 with bf16, but the model was observed with parameters "
            "of float32; observe the model in the precision you train in: model.to(torch.bfloat16) "
            "before pipecodec.partition"
        )
        assert "trains in float16 with fp16, but" in fp16 and "model.to(torch.float16)" in fp16
        assert "trains in float32 without bf16 and fp16, but" in fp32 and "of bfloat16" in fp32
        assert other.startswith("ranks differ in the model as it was observed and cut: ")
        assert other.endswith("differs between processes, loop over sorted(...) instead")


class Messages(logging.Handler):
    """Collects pipecodec's warnings about DeepSpeed in a rank."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []
        logging.getLogger("pipecodec").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def warned(rank: Rank, schedule: str) -> tuple[list[str], bool]:
    messages = Messages()
    grid = Grid(4 if schedule == "dualpipev" else 2, schedule=schedule)
    case = Observed("llama", grid)
    part = cut(case, n_stages=grid.stages, recompute=False, verify=False)
    engine = engine_for(part, grid, loss_fn=None)
    padded = [case.batch(i, rows=2, length=12, padded=True) for i in range(grid.accumulate)]
    assert engine.train_batch(iter(padded)).isfinite()
    return messages.seen, engine.dynamic_shape


SEVERAL = "the model was observed with 2 kinds of batch, and not the same values cross for each"


def test_dynamic_shape_is_turned_on_and_said_once() -> None:
    (said, dynamic), *others = values(warned, 2, "1f1b")
    assert said == [f"dynamic_shape is turned on: {SEVERAL}"]
    assert dynamic and others == [([], True)]


def test_dualpipev_keeps_static_shapes_and_says_so_once() -> None:
    (said, dynamic), *others = values(warned, 2, "dualpipev")
    assert len(said) == 1 and said[0].startswith(f"{SEVERAL}, but DualPipeV exchanges shapes once")
    assert not dynamic and others == [([], False)]


def evaluated(rank: Rank) -> Any:
    """Compare the outputs of an evaluation, and the state dict, with those of the model."""
    case = Observed("llama", TWO)
    model = case.build()
    batches = list(case.batches(1, 0, evaluate=True))
    with torch.no_grad():
        expected = [model.eval()(**batch) for batch in batches]
    part = cut(case, model.train(), n_stages=2)
    engine = engine_for(part, TWO, loss_fn=None)
    outputs = engine.eval_batch(iter(batches), compute_loss=False)
    state = model_state_dict(engine, part)
    if rank.rank == 0:
        own = model.state_dict()
        return list(state) == list(own) and all(torch.equal(state[key], own[key]) for key in own)
    return [same(*both) for both in zip(outputs, expected, strict=True)]


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or list(one) != list(other):
        return False
    return torch.equal(one.logits, other.logits) and torch.equal(one.loss, other.loss)


def test_an_evaluation_returns_the_outputs_of_the_model_and_its_state_dict_is_the_models() -> None:
    assert values(evaluated, 2) == [True, [True] * 3]
