"""The arguments of partition, and its stages as modules."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipecodec
from pipecodec.errors import PartitionError

from .chain import Block, Chain, assert_same, batch, cut_of


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
@pytest.mark.parametrize("training", [True, False])
def test_stages_compute_as_the_model_does(stages: int, training: bool) -> None:
    model = Chain(dropout=0.2)
    part = pipecodec.partition(model, kwargs=batch(), n_stages=stages)
    assert len(part.stages) == stages
    model.train(training)
    for inputs in (batch(), batch(3, 7, 1), batch(1, 1, 2)):
        assert_same(model, part, inputs)


def test_a_stage_has_the_model_s_names_and_modules() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=3)
    held = [set(stage.state_dict()) for stage in part.stages]
    assert set.union(*held) == set(model.state_dict())  # the module that nobody calls, too
    assert sum(map(len, held)) == len(model.state_dict())
    assert part.stages[1].get_submodule("layers.2") is model.layers[2]
    state = part.state_dict_to_model([stage.state_dict() for stage in part.stages])
    assert list(state) == list(model.state_dict())


def test_parameters_are_balanced() -> None:
    model = Chain((4, 4, 4, 4, 64, 4, 4))
    part = pipecodec.partition(model, kwargs=batch(), n_stages=3)
    assert cut_of(part).split == ["layers.4", "layers.5"]


def test_weights_say_how_large_a_stage_is() -> None:
    part = pipecodec.partition(Chain(), kwargs=batch(), n_stages=2, balance=[2, 5])
    assert cut_of(part).split == ["layers.1"]


def test_time_is_balanced() -> None:
    class Slow(Block):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            for _ in range(60):
                x = super().forward(x, mask) / 2
            return x

    model = Chain()
    model.layers[5] = Slow()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2, balance="time")
    assert cut_of(part).split == ["layers.5"]


def test_split_names_the_first_module_of_a_stage() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), split=["layers.1", "head"])
    assert cut_of(part).split == ["layers.1", "head"]
    assert_same(model, part, batch(3, 4))
    inside = pipecodec.partition(model, kwargs=batch(), split=["layers.1.down"])
    assert "layers.1.up.weight" in inside.stages[0].state_dict()
    assert_same(model, inside, batch(3, 4))


class Again(Chain):
    """One layer, called again and again."""

    def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
        for _ in range(4):
            x = self.layers[0](x)
        return {"logits": self.head(x)}


def test_calls_of_one_module_are_numbered() -> None:
    model = Again()
    part = pipecodec.partition(model, kwargs={"x": batch()["x"]}, split=["layers.0#2"])
    assert cut_of(part).split == ["layers.0#2"]
    assert part.tie_weights  # both stages hold it
    assert_same(model, part, {"x": batch()["x"]})
    two = pipecodec.partition(model, kwargs={"x": batch()["x"]}, split=["layers.0#1", "layers.0"])
    assert cut_of(two).split == ["layers.0#1", "layers.0#2"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs n_stages= .* or split="),
        ({"n_stages": 0}, "n_stages must be a number of stages, at least 1, not 0"),
        ({"n_stages": 2.0}, "not 2.0"),
        ({"n_stages": 3, "split": ["layers.1"]}, "names 1 cuts, which make 2 stages, not 3"),
        ({"split": ["layers.9"]}, "no module 'layers.9'; 'layers' has 0, 1, 2, 3, 4, 5"),
        ({"split": ["layers.3", "layers.1"]}, "'layers.1' is not called after 'layers.3'"),
        ({"split": ["spare"]}, "'spare' is not called; the model calls embed, layers.0"),
        ({"split": ["embed"]}, "'embed' is the first module that the model calls"),
        ({"split": ["layers.0#x"]}, "after '#' is a number"),
        ({"n_stages": 2, "balance": [1]}, "one positive weight for each of n_stages"),
        ({"n_stages": 2, "balance": "size"}, "not 'size'"),
        ({"n_stages": 2, "verify": True}, "not True"),
        ({"n_stages": 40}, "calls 7 layers .*, too few for 40 stages; ask for at most 7"),
        ({"n_stages": 2, "outputs": ["nothing"]}, "no 'nothing'; it has 'loss', 'logits'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pipecodec.partition(Chain(), kwargs=batch(), **arguments)


def test_a_whole_batch_as_one_argument_is_told() -> None:
    dicts = r"'x', is given as a dict of its arguments \('x', 'mask', .*\); pass that dict as "
    with pytest.raises(TypeError, match=dicts + "kwargs="):
        pipecodec.partition(Chain(), args=(batch(),), n_stages=2)
    part = pipecodec.partition(Chain(), kwargs=batch(), n_stages=2)
    for run in (pipecodec.run_local, pipecodec.doctor):
        with pytest.raises(TypeError, match=dicts + r"\*\*batch"):
            run(part, batch())
        with pytest.raises(TypeError, match=r"'kwargs' is not .*; pass the dict as \*\*kwargs"):
            run(part, kwargs=batch())


def test_a_batch_that_does_not_fit_is_told() -> None:
    with pytest.raises(PartitionError, match=r"does not fit Chain.forward: .* 'x'"):
        pipecodec.partition(Chain(), kwargs={"mask": None}, n_stages=2)


def test_only_some_outputs_are_kept() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2, outputs=["loss"])
    found = pipecodec.run_local(part, **batch())
    assert list(found) == ["loss"]
    assert found["loss"].dim() == 0


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"]
)
def test_partitions_are_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=3)
    other = again(part)
    assert other.stages[0] is not part.stages[0]
    assert other.cut == part.cut
    for p in model.parameters():
        p.data.zero_()
    with torch.no_grad():
        assert pipecodec.run_local(part, **batch())["logits"].abs().sum() == 0
        assert pipecodec.run_local(other, **batch())["logits"].abs().sum() != 0


PRINTS = "from tests.test_cutting import *; print(fingerprint())"


def fingerprint() -> str:
    torch.manual_seed(0)
    return cut_of(pipecodec.partition(Chain(), kwargs=batch(), n_stages=3)).fingerprint


@pytest.mark.slow
def test_fingerprints_are_those_of_other_processes() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", PRINTS],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert printed == [fingerprint()] * 2
    other = pipecodec.partition(Chain(), kwargs=batch(), n_stages=2)
    assert cut_of(other).fingerprint != printed[0]


def test_recomputed_values_do_not_cross() -> None:
    class Masked(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            full = mask[:, None, :] & mask[:, :, None]
            x = self.embed(x)
            for layer in self.layers:
                x = layer(x) + (x.new_zeros(x.shape[:2]) + full.sum(-1))[..., None]
            return {"logits": self.head(x)}

    inputs = {"x": batch(2, 9)["x"], "mask": batch(2, 9)["mask"]}
    model = Masked()
    sent = pipecodec.partition(model, kwargs=inputs, n_stages=3, recompute=False)
    made = pipecodec.partition(model, kwargs=inputs, n_stages=3, recompute=True)
    assert cut_of(pipecodec.partition(model, kwargs=inputs, n_stages=3)).recomputed
    assert "and" in " ".join(sent.liveness[1])
    assert "mask" in made.liveness[1] and "and" not in " ".join(made.liveness[1])
    prices = cut_of(sent).crossing
    assert prices == cut_of(made).crossing
    for part in (sent, made):
        assert_same(model, part, inputs)
        assert_same(model, part, {"x": batch(3, 4)["x"], "mask": batch(3, 4)["mask"]})


class Doubling(nn.Module):
    """Code between the layers asks for a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * 2 if self.training else x


@pytest.mark.parametrize("frozen", range(4))
def test_a_layer_frozen_before_the_first_run_leaves_the_stages_in_training(frozen: int) -> None:
    """Its stage had been left in evaluation, and took all stages with it."""
    model, x = Doubling(), torch.ones(2, 4)
    part = pipecodec.partition(model, (x,), n_stages=2)
    model.layers[frozen].eval()
    assert torch.equal(pipecodec.run_local(part, x), model(x))
