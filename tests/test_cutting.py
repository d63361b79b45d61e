"""The arguments of partition, its stages as modules, and the model that it leaves as it was."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pipecodec
from pipecodec.errors import PartitionError
from pipecodec.stages.cut import Cut

WIDTH = 8


class Block(nn.Module):
    """A layer of a given size, with dropout."""

    def __init__(self, inner: int = WIDTH, dropout: float = 0.0) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.down(self.dropout(torch.relu(self.up(x))))
        return x + (y if mask is None else y * mask.unsqueeze(-1))


class Chain(nn.Module):
    """Layers with a mask and scale between them, and a loss where there are labels."""

    def __init__(self, sizes: tuple[int, ...] = (WIDTH,) * 6, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Block(size, dropout) for size in sizes)
        self.head = nn.Linear(WIDTH, 4)
        self.spare = nn.Linear(3, 3)  # never called

    def forward(self, x: Tensor, mask: Tensor | None = None, labels: Any = None) -> dict[str, Any]:
        if mask is not None:
            mask = mask.to(x.dtype)
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, mask) * x.shape[-2] ** -0.5
            x = functional.dropout(x, 0.1, self.training)
        logits = self.head(x)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits, "hidden": x}


def batch(samples: int = 2, length: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(samples, length, WIDTH, generator=generator),
        "mask": torch.rand(samples, length, generator=generator) > 0.3,
        "labels": torch.randint(4, (samples, length), generator=generator),
    }


def results(model: nn.Module, call: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """The output, and all gradients of its loss."""
    model.zero_grad()
    torch.manual_seed(3)
    output = call(**inputs)
    (output["logits"].sum() if output.get("loss") is None else output["loss"]).backward()
    return output, {name: p.grad for name, p in model.named_parameters()}


def assert_same(model: nn.Module, part: pipecodec.Partition, inputs: dict[str, Any]) -> None:
    expected, gradients = results(model, model, inputs)
    found, others = results(model, lambda **kw: pipecodec.run_local(part, **kw), inputs)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert (value is None and found[key] is None) or torch.equal(value, found[key]), key
    for name, gradient in gradients.items():
        other = others[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name


def cut_of(part: pipecodec.Partition) -> Cut:
    assert part.cut is not None
    return part.cut


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
        ({"n_stages": 0}, "n_stages is a number of stages, at least 1, not 0"),
        ({"n_stages": 2.0}, "not 2.0"),
        ({"n_stages": 3, "split": ["layers.1"]}, "names 1 cuts, which make 2 stages, not 3"),
        ({"split": ["layers.9"]}, "no module 'layers.9'; 'layers' has 0, 1, 2, 3, 4, 5"),
        ({"split": "layers.1"}, r"pass split=\['layers.1'\]"),
        ({"split": ["layers.3", "layers.1"]}, "'layers.1' is not called after 'layers.3'"),
        ({"split": ["spare"]}, "'spare' is not called; the model calls embed, layers.0"),
        ({"split": ["embed"]}, "'embed' is the first module that the model calls"),
        ({"split": ["layers.0#x"]}, "after '#' is a number"),
        ({"n_stages": 2, "balance": [1]}, "one positive weight for each of n_stages"),
        ({"n_stages": 2, "balance": "size"}, "not 'size'"),
        ({"n_stages": 2, "verify": True}, "not True"),
        ({"n_stages": 40}, "too few for 40 stages"),
        ({"n_stages": 2, "outputs": ["nothing"]}, "no 'nothing'; it has 'loss', 'logits'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pipecodec.partition(Chain(), kwargs=batch(), **arguments)


def test_a_batch_that_does_not_fit_is_told() -> None:
    with pytest.raises(PartitionError, match=r"does not fit Chain.forward: .* 'x'"):
        pipecodec.partition(Chain(), kwargs={"mask": None}, n_stages=2)


def test_only_some_outputs_are_kept() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2, outputs=["loss"])
    found = pipecodec.run_local(part, **batch())
    assert list(found) == ["loss"]
    assert found["loss"].dim() == 0


def test_a_batch_of_another_kind_is_refused_until_it_was_observed() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2)
    bare = {"x": batch()["x"], "mask": None, "labels": None}
    with pytest.raises(PartitionError, match=r"the input 'mask' is None.*in examples="):
        pipecodec.run_local(part, **bare)
    with pytest.raises(PartitionError, match="dtype|float32"):
        pipecodec.run_local(part, **{**batch(), "mask": batch()["mask"].float()})
    both = pipecodec.partition(model, kwargs=batch(), examples=[bare], n_stages=2)
    assert cut_of(both).observations == 2
    assert_same(model, both, batch(3, 4))
    assert_same(model, both, {**bare, "x": torch.randn(4, 3, WIDTH)})


def test_an_input_that_some_batches_lack_may_be_left_out() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), examples=[{"x": batch()["x"]}], n_stages=2)
    assert_same(model, part, {"x": batch(4, 4)["x"]})
    assert_same(model, part, batch(4, 4))


def test_another_precision_is_refused() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2)
    inputs = {name: v.bfloat16() if v.is_floating_point() else v for name, v in batch().items()}
    model.bfloat16()
    with pytest.raises(PartitionError, match="float32"):
        pipecodec.run_local(part, **inputs)
    low = pipecodec.partition(model, kwargs=inputs, n_stages=2)
    assert_same(model, low, inputs)
    assert cut_of(low).dtype is torch.bfloat16


def test_autocast_is_part_of_an_observation() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(PartitionError, match="autocast was False when the model was observed"),
    ):
        pipecodec.run_local(part, **batch())
    with torch.autocast("cpu", torch.bfloat16):
        low = pipecodec.partition(model, kwargs=batch(), n_stages=2)
        assert_same(model, low, batch())


def test_the_model_is_left_as_it_was() -> None:
    class Counting(Chain):
        def __init__(self) -> None:
            super().__init__(dropout=0.1)
            self.norm = nn.BatchNorm1d(WIDTH)
            self.calls = 0
            self.last: Tensor | None = None

        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            x = self.norm(x.flatten(0, 1)).view_as(x)
            self.last = x.detach()
            return super().forward(x, mask, labels)

    model = Counting()
    model.layers[1].eval()
    model.embed.weight.grad = torch.ones(WIDTH, WIDTH)
    inputs = batch()
    before = copy.deepcopy((model.state_dict(), inputs))
    modes = [module.training for module in model.modules()]
    hooks = [list(module._forward_hooks) for module in model.modules()]
    calls = {cls: vars(cls).get("__call__") for m in model.modules() for cls in type(m).__mro__}
    apply = torch.autograd.Function.apply
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()

    pipecodec.partition(model, kwargs=inputs, n_stages=3)

    for name, value in model.state_dict().items():
        assert torch.equal(value, before[0][name]), name
    for name, value in inputs.items():
        assert torch.equal(value, before[1][name]), name
    assert [module.training for module in model.modules()] == modes
    assert [list(module._forward_hooks) for module in model.modules()] == hooks
    assert {cls: vars(cls).get("__call__") for cls in calls} == calls
    assert torch.autograd.Function.apply == apply
    assert torch.equal(model.embed.weight.grad, torch.ones(WIDTH, WIDTH))
    assert model.head.weight.grad is None
    assert model.last is None
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


def test_state_that_stages_do_not_keep_is_told() -> None:
    class Keeps(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            output = super().forward(x, mask, labels)
            self.last_logits = output["logits"].detach()
            return output

    part = pipecodec.partition(Keeps(), kwargs=batch(), n_stages=2)
    assert any("sets last_logits between its layers" in note for note in cut_of(part).notes)


def test_a_model_that_goes_another_way_in_its_second_call_is_refused() -> None:
    class Once(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.scaled = False

        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            if not self.scaled:
                x = x / 2
                self.scaled = True
            return super().forward(x, mask, labels)

    with pytest.raises(PartitionError, match="when the same batch comes again: .* sets scaled"):
        pipecodec.partition(Once(), kwargs=batch(), n_stages=2)


def test_a_mode_that_could_not_be_observed_is_refused() -> None:
    class TrainsOnly(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            if not self.training:
                raise RuntimeError("not in evaluation")
            return super().forward(x, mask, labels)

    model = TrainsOnly()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2)
    assert_same(model, part, batch(3, 4))
    for stage in part.stages:
        stage.eval()
    with pytest.raises(PartitionError, match="observed in training only, and is in evaluation now"):
        pipecodec.run_local(part, **batch())


def test_one_name_of_two_stages_is_two_values() -> None:
    class Late(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            early = x.cos() if mask is None else None
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if i == 2 and early is None:
                    early = x.cos()
            return {"logits": self.head(x * early)}

    model, x = Late(), batch()["x"]
    others = [{"x": x, "mask": batch()["mask"]}]
    part = pipecodec.partition(model, kwargs={"x": x}, examples=others, n_stages=3)
    assert cut_of(part).observations == 2
    assert_same(model, part, {"x": x})
    assert_same(model, part, others[0])


def test_stages_follow_the_mode_of_the_model() -> None:
    model = Chain(dropout=0.5)
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2)
    model.eval()
    assert_same(model, part, batch())
    assert not any(stage.training for stage in part.stages)
    for stage in part.stages:
        stage.train()
    model.layers[0].eval()  # a frozen layer changes nothing for the others
    torch.manual_seed(3)
    one = pipecodec.run_local(part, **batch())["logits"]
    torch.manual_seed(4)
    assert not torch.equal(one, pipecodec.run_local(part, **batch())["logits"])


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


class Unseen(Chain):
    """Adds a number where nobody can see it."""

    def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
        x = x * 1
        with torch._C.DisableTorchFunction():
            x.add_(1)
        return super().forward(x, mask, labels)


def test_verification_finds_work_that_was_not_observed() -> None:
    with pytest.raises(PartitionError, match="the output loss is not the model's to the last bit"):
        pipecodec.partition(Unseen(), kwargs=batch(), n_stages=2)
    assert pipecodec.partition(Unseen(), kwargs=batch(), n_stages=2, verify="structure").stages


def test_chance_between_layers_is_found() -> None:
    class Deep(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            return super().forward(x * random.random(), mask, labels)

    with pytest.raises(PartitionError, match="for one and the same batch.* depends on chance"):
        pipecodec.partition(Deep(), kwargs=batch(), n_stages=2)


def test_one_tensor_under_two_names_is_two_inputs() -> None:
    class Two(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            output = super().forward(x)
            return {"loss": (output["logits"].sum(-1) * labels.sum(-1)).sum(), **output}

    model, x = Two(), batch()["x"]
    part = pipecodec.partition(model, kwargs={"x": x, "labels": x}, n_stages=2)
    assert_same(model, part, {"x": x, "labels": x})
    assert_same(model, part, {"x": x, "labels": batch(seed=1)["x"]})


def test_a_loop_over_a_size_holds_for_observed_sizes() -> None:
    class Rows(Chain):
        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            rows = [x[:, i] * (i + 1) for i in range(x.shape[1])]
            return super().forward(torch.stack(rows, 1))

    model = Rows()
    part = pipecodec.partition(model, kwargs={"x": batch()["x"]}, n_stages=2)
    assert any(note.startswith("the sizes x[1] are fixed") for note in cut_of(part).notes)
    assert_same(model, part, {"x": batch(7, 5)["x"]})
    with pytest.raises(
        PartitionError,
        match=r"dimension 1 of the input 'x' \(fixed: .* calls __getitem__ .* and stack",
    ):
        pipecodec.run_local(part, batch(2, 6)["x"])
    longer = [{"x": batch(2, 6)["x"]}]
    both = pipecodec.partition(model, kwargs={"x": batch()["x"]}, examples=longer, n_stages=2)
    assert_same(model, both, {"x": batch(3, 6)["x"]})
    assert_same(model, both, {"x": batch(3, 5)["x"]})


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
