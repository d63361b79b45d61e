"""Stages run in one process: outputs, gradients and errors are those of the whole model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipecodec.codec import Codec
from pipecodec.stages import partition, partition_modules, run_local
from tests.small_stages import INPUTS, OUTPUTS, Embed, Function, Model, four_stages


@pytest.fixture
def stages():
    return four_stages()


@pytest.fixture
def batch():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    return {"ids": ids, "mask": ids > 1, "labels": ids.roll(-1, 1)}


def gradients(model):
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return grads


def same_gradients(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("outputs", [OUTPUTS, None])
def test_outputs_and_gradients_equal_those_of_the_whole_model(stages, batch, outputs):
    part = partition_modules(stages, INPUTS, outputs)
    model = Model(stages)
    loss, logits = model(**batch)
    loss.backward()
    expected = gradients(model)
    split_loss, split_logits = run_local(part, batch["ids"], labels=batch["labels"],
                                         mask=batch["mask"])  # fmt: skip
    split_loss.backward()
    assert torch.equal(split_loss, loss)
    assert torch.equal(split_logits, logits)
    assert same_gradients(gradients(model), expected)


@pytest.mark.parametrize("outputs", [OUTPUTS, None])
def test_optional_inputs_may_be_left_out(stages, batch, outputs):
    part = partition_modules(stages, INPUTS, outputs)
    assert torch.equal(run_local(part, batch["ids"]), Model(stages)(batch["ids"]))


def test_every_boundary_is_packed_and_unpacked(stages, batch, monkeypatch):
    seen = []

    class Recorder:
        def __init__(self, name, **options):
            self.name, self.codec = name, Codec(name=name, **options)

        def pack(self, values):
            seen.append((self.name, len(values)))
            return self.codec.pack(values)

        def unpack(self, tensors):
            assert tensors[-1].dtype is torch.uint8
            return self.codec.unpack(tensors)

    monkeypatch.setattr(partition, "Codec", Recorder)
    run_local(partition_modules(stages, INPUTS, OUTPUTS), **batch)
    assert seen == [("boundary 0→1", 3), ("boundary 1→2", 3), ("boundary 2→3", 2)]


def test_the_same_tensor_objects_arrive():
    sent = [torch.ones(2, requires_grad=True), torch.zeros(3)]
    stages = [
        Function("x", lambda v: ("a", {"k": sent})),
        Function("a, b", lambda v: v["b"]["k"]),
    ]
    received = run_local(partition_modules(stages), None)
    assert all(x is y for x, y in zip(received, sent, strict=True))


def test_one_stage_has_no_boundary(batch):
    embed = Embed()
    assert torch.equal(run_local(partition_modules([embed]), batch["ids"])["hidden"],
                       embed(batch["ids"])["hidden"])  # fmt: skip


def test_inputs_are_not_guessed_behind_an_undeclared_stage():
    stages = [Function("x", None), Function("hidden, labels", None)]
    part = partition_modules(stages)
    assert part.input_names == ["x"]
    with pytest.raises(
        TypeError,
        match=r"'labels' is not an input .* give partition a batch that has it",
    ):
        run_local(part, 1, labels=2)


def test_undeclared_stage_that_does_not_give_what_is_needed():
    stages = [Function("x", lambda v: {"h": v["x"], "mash": 0}), Function("h, mask", None)]
    with pytest.raises(ValueError, match="stage 0 has to pass on 'mask', but there is only x, "):
        run_local(partition_modules(stages), 1)


def test_what_a_mapping_gives_goes_round_the_next_stage():
    stages = [
        Function("x", lambda v: {"h": v["x"], "mask": 3}),
        Function("h", lambda v: {"h": v["h"] + 1}),
        Function("h, mask", lambda v: (v["h"], v["mask"])),
    ]
    assert run_local(partition_modules(stages), 1) == (2, 3)


def test_required_input_that_is_not_given():
    part = partition_modules([Function("x, y", None)])
    with pytest.raises(ValueError, match="stage 0 takes 'y', which it did not receive; there is x"):
        run_local(part, 1)


def run_plain(chain, inputs):
    """Run `chain` with one dict for all values that were ever named."""
    env = dict(inputs)
    for k, (stage, parameters, declared) in enumerate(chain):
        output = stage(**{name: env[name] for name in parameters if name in env})
        if isinstance(declared, str):
            env[declared] = output
        elif declared is not None:
            several = output if isinstance(output, tuple) else (output,)
            env.update(output if isinstance(output, dict) else zip(declared, several, strict=True))
        elif isinstance(output, dict):
            env.update(output)
        elif k + 1 < len(chain):
            several = output if isinstance(output, tuple) else (output,)
            env.update(zip(chain[k + 1][1], several, strict=False))
    return output


NAMES = ["a", "b", "c", "d", "e"]
some_names = st.lists(st.sampled_from(NAMES), unique=True, max_size=3)


def make_stage(k, required, optional, shape, given):
    """Return a stage whose every output is a number that no other computation gives."""
    parameters = [*required, *optional]

    def body(values):
        total = sum((i + 2) * v for i, v in enumerate(values[name] for name in parameters))
        outputs = [torch.tensor(1000.0 * (k + 1) + 100 * i) + total / 7 for i in range(len(given))]
        if shape == "dict":
            return dict(zip(given, outputs, strict=True))
        return outputs[0] if shape == "one" else tuple(outputs)

    signature = ", ".join([*required, *(f"{name}=-1.0" for name in optional)])
    return Function(signature, body), parameters


@st.composite
def chains(draw):
    """Draw stages whose required arguments exist, by the rule for undeclared stages."""
    inputs = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3))
    sure = set(inputs)  # names that surely exist
    fresh = set()  # further names, given by undeclared stages
    bound = 0  # the leading parameters that the stage before binds
    chain = []
    n_stages = draw(st.integers(1, 5))
    for k in range(n_stages):
        required = draw(some_names.filter(lambda names: len(names) >= bound))  # noqa: B023
        kept = [name for i, name in enumerate(required) if i < bound or name in sure | fresh]
        required = kept or [min(sure)]
        fresh |= set(required[:bound])
        optional = [name for name in draw(some_names) if name not in required]
        sure |= set(required)
        shape = draw(st.sampled_from(["one", "tuple", "dict"]))
        given = draw(some_names.filter(bool))
        given = given[:1] if shape == "one" else given
        declared = draw(st.booleans())
        bound = 0
        if declared:
            sure |= set(given)
        else:
            fresh |= set(given) if shape == "dict" else set()
            bound = 0 if shape == "dict" else len(given)
        stage, parameters = make_stage(k, required, optional, shape, given)
        name_it = given[0] if shape == "one" and draw(st.booleans()) else given
        chain.append((stage, parameters, name_it if declared else None))
    return inputs, chain


class Repeat(nn.Module):
    def forward(self, x, times):
        return {"rows": [x] * times, "label": "n" * times}


class Count(nn.Module):
    def forward(self, rows, label):
        return len(rows), label


def test_a_boundary_keeps_its_codec_while_sizes_and_structures_change():
    part = partition_modules([Repeat(), Count()])
    for times in (1, 1, 1, 5000, 2, 1):
        assert run_local(part, torch.ones(2), times) == (times, "n" * times)
    frames, hits, *_ = partition._codec_after(part.stages[0], 0).stats
    assert (frames, hits) == (6, 3)
    again = pickle.loads(pickle.dumps(copy.deepcopy(part)))
    assert run_local(again, torch.ones(2), 3) == (3, "nnn")


@settings(deadline=None, max_examples=300)
@given(chains())
def test_chains_equal_a_run_with_a_plain_dict(drawn):
    inputs, chain = drawn
    part = partition_modules([stage for stage, _, _ in chain], inputs, [d for _, _, d in chain])
    values = {name: torch.tensor(float(i + 1)) for i, name in enumerate(inputs)}
    expected = run_plain(chain, values)
    found = run_local(part, **values)
    assert type(found) is type(expected)
    as_dict = expected if isinstance(expected, dict) else {"": expected}
    found_dict = found if isinstance(found, dict) else {"": found}
    assert as_dict.keys() == found_dict.keys()
    for key, value in as_dict.items():
        for x, y in zip(*(v if isinstance(v, tuple) else (v,) for v in (value, found_dict[key])),
                        strict=True):  # fmt: skip
            assert torch.equal(x, y)
    for k, names in enumerate(part.liveness):
        taken_from_here_on = {name for _, parameters, _ in chain[k:] for name in parameters}
        assert set(names) <= taken_from_here_on
        assert len(set(names)) == len(names)
