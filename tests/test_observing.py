"""Kinds of batch, modes, precision and state: a partition holds for all, or refuses."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import pipecodec
from pipecodec.errors import PartitionError

from .chain import WIDTH, Chain, assert_same, batch, cut_of


def test_a_batch_of_another_kind_is_refused_until_it_was_observed() -> None:
    model = Chain()
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2)
    bare = {"x": batch()["x"], "mask": None, "labels": None}
    with pytest.raises(PartitionError, match=r"the input 'mask' is None.*in examples="):
        pipecodec.run_local(part, **bare)
    floats = {**batch(), "mask": batch()["mask"].float()}
    advice = r"pass it as torch.bool \(.to\(torch.bool\)\)"
    with pytest.raises(PartitionError, match=rf"'mask' has .* torch.float32, .*{advice}; if"):
        pipecodec.run_local(part, **floats)
    both = pipecodec.partition(model, kwargs=batch(), examples=[bare], n_stages=2)
    assert cut_of(both).observations == 2
    with pytest.raises(PartitionError, match=rf"of the 2 .*{advice}.* If the model takes it"):
        pipecodec.run_local(both, **floats)
    assert_same(
        model, pipecodec.partition(model, kwargs=batch(), examples=[floats], n_stages=2), floats
    )
    low = {**batch(), "x": batch()["x"].bfloat16()}
    with pytest.raises(PartitionError, match=r"examples\[0\]: .* 'x' is torch.bfloat16, and"):
        pipecodec.partition(model, kwargs=batch(), examples=[low], n_stages=2)
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
    advice = r"pass it as torch.float32 .*, or cut the model .*model\.to\(torch.bfloat16\) before"
    with pytest.raises(PartitionError, match=rf"'x' has a tensor of torch.bfloat16, .*{advice}"):
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
            self.kept = {"deep": [SimpleNamespace(last=None)]}

        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            x = self.norm(x.flatten(0, 1)).view_as(x)
            self.last = self.kept["deep"][0].last = x.detach()
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
    assert model.last is None and model.kept == {"deep": [SimpleNamespace(last=None)]}
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


@pytest.mark.parametrize("kept", ["scaled", "_scaled", "kept"])
def test_a_model_that_goes_another_way_in_its_second_call_is_refused(kept: str) -> None:
    class Once(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.scaled = self._scaled = False
            self.kept = SimpleNamespace(kept=False)

        def forward(self, x: Tensor, mask: Any = None, labels: Any = None) -> dict[str, Any]:
            owner = self.kept if kept == "kept" else self
            if not getattr(owner, kept):
                x = x / 2
                setattr(owner, kept, True)
            return super().forward(x, mask, labels)

    with pytest.raises(PartitionError, match=f"when the same batch comes again: .* sets {kept} "):
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


def test_names_of_modules_and_parameters_may_be_any_text() -> None:
    """They stood in the source of stages as they are, so "conv-1" was no Python there.

    "a.b" and "a_b" are of one length, and so had one name in that source.
    """

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.a_b = nn.Linear(4, 4)
            self.more = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("conv-1", "if", "'")})
            self.scales = nn.ParameterDict({"w-1": torch.ones(4), "0": torch.ones(4)})

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.a_b(self.a["b"](x)).tanh() * self.scales["w-1"] * self.scales["0"]
            for module in self.more.values():
                x = module(x)
            return {"loss": x.sum()}

    model = Named()
    part = pipecodec.partition(model, kwargs={"x": torch.ones(2, 4)}, n_stages=2)
    assert_same(model, part, {"x": torch.randn(2, 4)})
