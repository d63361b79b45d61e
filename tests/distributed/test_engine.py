"""DeepSpeed's own PipelineEngine, nothing patched, against the same training in one process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipecodec.demo import train
from pipecodec.demo.settings import Settings

from .harness import values
from .training import Case, Result, train_pipeline, train_whole

EVERY_KIND = frozenset({0, 1, 3})
"""Evaluation before, between and after three training steps."""

CASES = {
    "two stages": Case("Decoder", 2),
    "three stages": Case("Decoder", 3),
    "evaluation before training": Case("Decoder", 3, evaluate=EVERY_KIND),
    "evaluation between and after": Case("Decoder", 2, evaluate=frozenset({1, 2, 3})),
    "more micro-batches than stages": Case("Decoder", 3, accumulate=5),
    "frozen middle stage": Case("Decoder", 3, {"frozen": ("middle",)}, evaluate=EVERY_KIND),
    "nothing differentiable leaves stage 0": Case("Decoder", 3, {"frozen": ("first",)}),
    "frozen up to the last stage": Case("Decoder", 3, {"frozen": ("first", "middle")}),
    "no gradient for what crosses": Case("DeadEnds", 3, evaluate=EVERY_KIND),
}


def compare(pipeline: list[Result], whole: Result) -> None:
    """Check that every rank saw the losses of one process, and that the weights ended equal."""
    for result in pipeline:
        assert result.losses == whole.losses
        assert result.evaluations == whole.evaluations
    together = {name: value for result in pipeline for name, value in result.weights.items()}
    assert together == whole.weights


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_one_process(case: Case) -> None:
    (whole,) = values(train_whole, 1, case)
    assert len(set(whole.losses)) == case.steps
    compare(values(train_pipeline, case.stages, case), whole)


def test_a_difference_is_noticed() -> None:
    """The comparison fails for another model, and for results that are off by one bit."""
    case = Case("Decoder", 2)
    pipeline = values(train_pipeline, 2, case)
    (other,) = values(train_whole, 1, replace(case, arguments={"frozen": ("first",)}))
    with pytest.raises(AssertionError):
        compare(pipeline, other)
    (whole,) = values(train_whole, 1, case)
    wrong_weight = replace(whole, weights={**whole.weights, "last.linear.bias": [0.0, 0.0, 0.0]})
    with pytest.raises(AssertionError):
        compare(pipeline, wrong_weight)
    with pytest.raises(AssertionError):
        compare(pipeline, replace(whole, losses=[*whole.losses[:-1], whole.losses[-1] + 1e-7]))


@pytest.mark.parametrize(
    ("model", "stages", "attention"),
    [("gpt2", 2, "sdpa"), ("gpt2", 3, "eager"), ("llama", 3, "sdpa"), ("llama", 2, "eager")],
)
def test_hugging_face_model_equals_one_process(model: str, stages: int, attention: str) -> None:
    """AdamW on the stages against the unsplit model with its own loss; "eager" has float masks."""
    settings = Settings(model, stages, 3, attention, batch=2, length=32, micro_batches=3)
    (whole,) = values(train.train_whole, 1, settings)
    pipeline = values(train.train_pipeline, stages, settings)
    assert whole.losses[-1] < whole.losses[0]
    for stage in pipeline:
        assert stage.losses == whole.losses
    together = {name: weight for stage in pipeline for name, weight in stage.weights.items()}
    assert together.keys() == whole.weights.keys()
    for name, weight in together.items():
        np.testing.assert_array_equal(weight, whole.weights[name], err_msg=name)
