"""DeepSpeed's own PipelineEngine, nothing patched, against the same training in one process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipecodec.demo import train
from pipecodec.demo.settings import Settings

from .comparison import check
from .engines import Grid
from .harness import values
from .models import Case
from .reference import in_one_process
from .training import Trained, on_engine

EVERY_KIND = frozenset({0, 1, 3})
"""Evaluation before, between and after three training steps."""

TWO, THREE = Grid(2), Grid(3)

CASES = {
    "two stages": Case("Decoder", TWO),
    "three stages": Case("Decoder", THREE),
    "evaluation before training": Case("Decoder", THREE, evaluate=EVERY_KIND),
    "evaluation between and after": Case("Decoder", TWO, evaluate=frozenset({1, 2, 3})),
    "more micro-batches than stages": Case("Decoder", THREE, accumulate=5),
    "frozen middle stage": Case("Decoder", THREE, {"frozen": ("middle",)}, evaluate=EVERY_KIND),
    "nothing differentiable leaves stage 0": Case("Decoder", THREE, {"frozen": ("first",)}),
    "frozen up to the last stage": Case("Decoder", THREE, {"frozen": ("first", "middle")}),
    "no gradient for sent values": Case("DeadEnds", THREE, evaluate=EVERY_KIND),
}


def both(name: str, case: Case) -> tuple[list[Trained], Trained]:
    """Train in a pipeline and in one process."""
    (whole,) = values(in_one_process, 1, {name: case})
    ranks = values(on_engine, case.grid.processes, {name: case})
    return [rank[name] for rank in ranks], whole[name]


@pytest.mark.parametrize("name", CASES)
def test_equals_one_process(name: str) -> None:
    ranks, whole = both(name, CASES[name])
    assert len(set(whole.losses)) == CASES[name].steps
    check(ranks, whole)


def test_a_difference_is_noticed() -> None:
    """The comparison fails for another model, and for results that are off by one bit."""
    case = Case("Decoder", TWO, evaluate=frozenset({1}))
    ranks, whole = both("", case)
    check(ranks, whole)
    (other,) = values(in_one_process, 1, {"": replace(case, arguments={"frozen": ("first",)})})
    name = "last.linear.bias"
    weights = [{**step, name: np.nextafter(step[name], np.float32(9))} for step in whole.weights]
    for wrong, said in (
        (other[""], "weights differ by .*, first first.linear.weight in step 0"),
        (replace(whole, weights=[*whole.weights[:-1], weights[-1]]), f"{name} in step 2"),
        (replace(whole, losses=[*whole.losses[:-1], whole.losses[-1] + 1e-7]), "losses"),
        (replace(whole, evaluations=[0.0]), "evaluations"),
        (replace(whole, scales=[2.0] * 3), "scales"),
        (replace(whole, weights=[{**step, "more": step[name]} for step in whole.weights]), "more"),
    ):
        with pytest.raises(AssertionError, match=said):
            check(ranks, wrong)
    with pytest.raises(AssertionError):
        check(ranks, other[""], within=1e-6)
    missing = [replace(rank, missing=whole.missing) for rank in ranks]
    check(missing, whole)
    with pytest.raises(AssertionError, match="no gradient in step 0: "):
        check(missing, replace(whole, missing=[frozenset({name})] * 3))


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
