"""The report of hand-made stages: figures computed by hand, and a model left as it was."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from torch import nn

import pipecodec
from pipecodec.report import Report
from pipecodec.report.schedule import idle
from tests.small_stages import INPUTS, OUTPUTS, Function, four_stages


class First(nn.Module):
    """Makes values of all kinds, one of which nobody uses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, lengths):
        rows = torch.arange(x.shape[1]) < lengths[:, None]
        return {
            "hidden": self.linear(x),
            "mask": {"rows": rows.float(), "causal": None},
            "scale": 0.5,
            "wide": torch.zeros(len(x), 2000, dtype=torch.bool),
            "bias": torch.zeros(len(x), 1).expand(-1, 8).t(),
            "spare": self.linear(x).sum(1),
        }


class Middle(nn.Linear):
    def forward(self, hidden):
        return {"hidden": super().forward(hidden).tanh()}


class Last(nn.Linear):
    def forward(self, hidden, mask, scale, wide, bias, spare):
        rows = mask["rows"] + bias.t()
        return super().forward(hidden) * rows * scale + wide.sum()


def partition():
    torch.manual_seed(0)
    return pipecodec.partition_modules([First(), Middle(8, 8), Last(8, 8, bias=False)])


@pytest.fixture
def batch():
    return {"x": torch.ones(3, 8), "lengths": torch.tensor([1, 4, 8])}


@pytest.fixture
def report(batch):
    return pipecodec.doctor(partition(), micro_batches=6, **batch)


def by_path(report, boundary):
    return {crossing.path: crossing for crossing in report.boundaries[boundary].crossings}


def test_values_that_cross(report):
    found = by_path(report, 0)
    assert list(found) == ["hidden", "mask['rows']", "mask['causal']", "scale", "wide", "bias",
                           "spare"]  # fmt: skip
    hidden, rows, causal, scale, wide, bias, spare = found.values()
    assert (hidden.name, hidden.kind, hidden.dtype, hidden.shape, hidden.nbytes) == (
        "hidden", "tensor", "float32", (3, 8), 4 * 3 * 8,
    )  # fmt: skip
    assert (hidden.travels, hidden.gradient, hidden.used) == ("tunnel", True, True)
    assert (hidden.made_by, hidden.used_by, hidden.varies) == (0, (1,), None)
    assert (rows.name, rows.travels, rows.gradient, rows.used) == ("mask", "frame", False, None)
    assert (causal.kind, causal.travels, causal.nbytes) == ("None", "structure", 0)
    assert (scale.kind, scale.travels) == ("float", "number")
    assert (wide.travels, wide.nbytes, wide.used_by) == ("own message", 3 * 2000, (2,))
    assert (bias.shape, bias.nbytes) == ((8, 3), 4 * 3)  # expanded
    assert by_path(report, 1)["bias"].nbytes == 4 * 3
    assert (spare.travels, spare.gradient, spare.used) == ("tunnel", True, False)
    assert all(crossing.maker is None for crossing in found.values())


def test_a_name_means_its_latest_value(report):
    first, second = by_path(report, 0)["hidden"], by_path(report, 1)["hidden"]
    assert (first.made_by, first.used_by) == (0, (1,))
    assert (second.made_by, second.used_by) == (1, (2,))


def test_messages_and_bytes(report):
    first, second = report.boundaries
    assert (first.index, second.index) == (0, 1)
    # tunnel, the wide mask, the frame; and the gradient of the tunnel
    assert first.messages == second.messages == (3, 1)
    # a plain tuple: hidden, rows, wide, bias, spare; back, all but the bool one
    assert first.tuple_messages == (5, 4)
    sent, back = first.nbytes
    frame = sent - back - 3 * 2000
    assert back >= 4 * (3 * 8 + 3)
    assert frame >= 4 * 3 * 8 + 4 * 3
    assert frame % 256 == 0
    assert (first.sent_bytes, first.recomputed_bytes) == (None, None)


def test_rules_that_a_plain_tuple_breaks(report):
    rules = {path: crossing.rules for path, crossing in by_path(report, 0).items()}
    starts = {path: [rule.split(":")[0] for rule in found] for path, found in rules.items()}
    assert starts == {
        "hidden": [],
        "mask['rows']": ["float without a gradient"],
        "mask['causal']": ["no tensor"],
        "scale": ["no tensor"],
        "wide": ["bool"],
        "bias": ["float without a gradient", "not contiguous"],
        "spare": ["float that gets no gradient"],
    }
    (rule,) = report.boundaries[0].tuple_rules
    assert rule.startswith("item 2 is wide (bool), into whose buffer the gradient of bias")
    assert report.boundaries[1].tuple_rules == ()


def test_more_rules():
    values = [
        torch.ones(2, dtype=torch.complex64), torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(2, dtype=torch.uint16), torch.ones(300),
    ]  # fmt: skip
    values.append(values[0])
    many = [torch.ones(1, dtype=torch.int64)] * 1 + [torch.zeros(1).long() for _ in range(90)]
    stages = [
        Function("x", lambda v: {"a": values, "many": many, "h": v["x"]}),
        Function("a, h", lambda v: {"h": (v["h"] * 2).double()}),
        Function("h", lambda v: v["h"].sum()),
    ]
    part = pipecodec.partition_modules(stages)
    report = pipecodec.doctor(part, torch.ones(4, requires_grad=True))
    found = {path: c.rules[0].split(":")[0] if c.rules else None
             for path, c in by_path(report, 0).items() if c.name == "a"}  # fmt: skip
    assert found == {
        "a[0]": "complex",
        "a[1]": "float without a gradient",
        "a[2]": "uint16",
        "a[3]": "float without a gradient",
        "a[4]": "a tensor that occurs twice",
    }
    assert "float8_e4m3fn: KeyError" in by_path(report, 0)["a[1]"].rules[1]


def test_too_many_numbers_describe_a_plain_tuple():
    def stages(count):
        return pipecodec.partition_modules([
            Function("x", lambda v: {"h": v["x"], "ids": [torch.zeros(1, 1).int() for _ in
                                                          range(count)]}),
            Function("h, ids", lambda v: v["h"].sum()),
        ])  # fmt: skip

    x = torch.ones(4, requires_grad=True)
    assert pipecodec.doctor(stages(62), x).boundaries[0].tuple_rules == ()  # 2 + 3 + 62 * 4 = 253
    (rule,) = pipecodec.doctor(stages(63), x).boundaries[0].tuple_rules
    assert rule == "257 numbers describe its 64 tensors, of 256: AssertionError"


@pytest.mark.parametrize(("elements", "conflict"), [(64, True), (3, False)])
def test_a_gradient_in_the_buffer_of_another_dtype(elements, conflict):
    """The engine receives gradient i into the buffer of tensor i, if that is large enough."""
    stages = [
        Function("x", lambda v: {"ids": torch.zeros(elements).int(), "h": v["x"] * 2}),
        Function("ids, h", lambda v: {"h": v["h"] * 2}),
        Function("h", lambda v: v["h"].sum()),
    ]
    part = pipecodec.partition_modules(stages)
    report = pipecodec.doctor(part, torch.ones(4, requires_grad=True))
    rules = report.boundaries[0].tuple_rules
    assert len(rules) == conflict
    assert not conflict or rules[0].startswith("item 0 is ids (int32), into whose buffer")


def test_stages_and_memory():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Linear(10, 10)  # 110
            self.b16 = nn.Linear(4, 4, bias=False).bfloat16()  # 16
            self.fp16 = nn.Linear(3, 3, bias=False).half()  # 9
            self.frozen = nn.Linear(2, 2).requires_grad_(False)  # 6
            self.again = self.wide
            self.over = nn.Parameter(self.wide.weight.detach())  # the same memory
            self.register_buffer("seen", torch.zeros(5))

        def forward(self, x):
            return self.wide(x)

    part = pipecodec.partition_modules([Two(), nn.Linear(10, 1)])
    for optimizer, states in [("AdamW", 2), ("sgd", 0), ("momentum", 1), (3, 3)]:
        stage, last = pipecodec.doctor(part, torch.ones(1, 10), optimizer=optimizer).stages
        assert (stage.index, stage.module, last.module) == (0, "Two", "Linear")
        assert (stage.parameters, stage.trainable, stage.frozen) == (141, 135, False)
        assert stage.weight_bytes == 4 * (110 + 6 + 5) + 2 * (16 + 9)
        assert stage.gradient_bytes == 4 * 110 + 2 * (16 + 9)
        # fp32: states; fp16: states and a master weight in fp32; bf16: a gradient in fp32 too
        assert stage.optimizer_bytes == 4 * (110 * states + 9 * (states + 1) + 16 * (states + 2))
        assert (last.parameters, last.optimizer_bytes) == (11, 4 * 11 * states)


def test_tied_weights():
    first, last = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    last.weight = first.weight
    part = pipecodec.partition_modules([first, nn.Linear(4, 4), last])
    report = pipecodec.doctor(part, torch.tensor([1, 2]))
    assert [stage.tied for stage in report.stages] == [("weight",), (), ("weight",)]
    assert "tied: stage 0: weight; stage 2: weight" in str(report)


def test_time_is_shared(report):
    assert all(stage.seconds > 0 for stage in report.stages)
    assert sum(stage.share for stage in report.stages) == pytest.approx(1)


def test_schedule(report):
    assert report.schedule.micro_batches == 6
    assert report.schedule.bubble == 2 / 8
    assert 0 < report.schedule.measured_bubble < 1
    assert pipecodec.doctor(partition()).schedule.micro_batches == 12


@pytest.mark.parametrize(
    ("seconds", "micro_batches", "share"),
    [
        ([1, 1], 1, 1 / 2),
        ([1, 1, 1], 6, 2 / 8),
        ([5, 5, 5, 5], 4, 3 / 7),
        ([1], 3, 0),
        # the second stage is busy from 1 on, 3 * 2 for each micro-batch, then one back of 2
        ([1, 2], 4, 1 - 3 * 4 * 3 / (2 * (1 + 24 + 2))),
    ],
)
def test_idle_share(seconds, micro_batches, share):
    assert idle(seconds, micro_batches) == pytest.approx(share)


def test_numbers_and_sizes_that_vary(batch):
    other = {"x": torch.ones(2, 8), "lengths": torch.tensor([1, 2])}
    report = pipecodec.doctor(partition(), more=[other], **batch)
    found = by_path(report, 0)
    assert {path: crossing.varies for path, crossing in found.items()} == {
        "hidden": True, "mask['rows']": True, "mask['causal']": False, "scale": False,
        "wide": True, "bias": True, "spare": True,
    }  # fmt: skip
    assert found["scale"].travels == "static number"
    assert any(rule.startswith("another size") for rule in found["hidden"].rules)
    report = pipecodec.doctor(partition(), more=[batch], **batch)
    assert not any(crossing.varies for crossing in by_path(report, 0).values())


def test_a_number_that_varies():
    stages = [
        Function("x", lambda v: {"h": v["x"], "n": len(v["x"]), "one": 1}),
        Function("h, n, one", lambda v: v["h"].sum()),
    ]
    part = pipecodec.partition_modules(stages)
    report = pipecodec.doctor(part, torch.ones(3), more=[(torch.ones(2),)])
    assert [(c.path, c.travels, c.varies) for c in report.boundaries[0].crossings[1:]] == [
        ("n", "number", True),
        ("one", "static number", False),
    ]
    assert "n: where a number is another one in each micro-batch" in str(report)
    assert 'with read="ahead"' in str(report)


class Noisy(nn.Module):
    """Draws random numbers, counts its calls, and keeps a running mean."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        random.random()
        return nn.functional.dropout(self.norm(x), training=self.training) * torch.rand(())


def test_the_model_is_left_as_it_was():
    part = pipecodec.partition_modules([Noisy(), nn.Linear(8, 8)])
    x = torch.rand(4, 8, requires_grad=True)
    pipecodec.run_local(part, x).sum().backward()
    part.stages[1].eval()
    state = [copy.deepcopy(stage.state_dict()) for stage in part.stages]
    gradients = [(p.grad, p.grad.clone()) for stage in part.stages for p in stage.parameters()]
    drawn, python = torch.get_rng_state(), random.getstate()
    pipecodec.doctor(part, x, more=[(torch.ones(3, 8),)])
    for stage, before in zip(part.stages, state, strict=True):
        assert all(torch.equal(a, b) for a, b in
                   zip(stage.state_dict().values(), before.values(), strict=True))  # fmt: skip
    parameters = [p for stage in part.stages for p in stage.parameters()]
    assert all(
        p.grad is grad and torch.equal(grad, value)
        for p, (grad, value) in zip(parameters, gradients, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == python
    assert [stage.training for stage in part.stages] == [True, False]
    assert not any(stage._forward_pre_hooks for stage in part.stages)
    assert x.grad is not None


def masked(change):
    """Stages of which the first takes the mask too, and may change it; labels are the last's."""

    class Embed(nn.Linear):
        def forward(self, x, mask):
            return {"h": super().forward(x), **change(mask)}

    class Head(nn.Linear):
        def forward(self, h, mask, labels):
            return (super().forward(h) * mask["m"] - labels).sum()

    stages = [Embed(4, 4), Middles(4, 4), Head(4, 4)]
    return pipecodec.partition_modules(stages, ["x", "mask", "labels"])


class Middles(nn.Linear):
    def forward(self, h):
        return {"h": super().forward(h)}


@pytest.mark.parametrize(
    ("change", "crosses"),
    [
        (lambda mask: {}, False),
        (lambda mask: mask["m"].mul_(1) is None or {}, True),
        (lambda mask: {"mask": {"m": mask["m"] * 1}}, True),
    ],
)
def test_inputs_of_the_last_stage_do_not_cross_unless_they_change(change, crosses):
    labels = torch.ones(2000, 4, 4)
    report = pipecodec.doctor(
        masked(change), torch.ones(4, 4), {"m": torch.ones(4, 4)}, labels=labels
    )
    assert report.problems == []
    for k, boundary in enumerate(report.boundaries):
        found = by_path(report, k)
        assert sorted(found) == ["h", "labels", "mask['m']"]
        assert (found["labels"].travels, found["labels"].used_by) == ("own batch", (2,))
        assert found["labels"].nbytes == labels.nbytes
        assert boundary.nbytes[0] < 4096
        mask = found["mask['m']"]
        assert (mask.travels, mask.used_by) == ("frame" if crosses else "own batch", (2,))
        assert bool(mask.rules) == crosses  # a float without a gradient
        assert boundary.tuple_messages == ((2, 2) if crosses else (1, 1))
    assert "own batch" in str(report)


def test_optional_inputs():
    part = pipecodec.partition_modules(four_stages(), INPUTS, OUTPUTS)
    report = pipecodec.doctor(part, torch.tensor([[1, 2, 3]]))
    found = by_path(report, 0)
    assert (found["bias"].kind, found["labels"].kind) == ("None", "absent")
    assert found["labels"].made_by is None
    assert report.problems == []


def test_dict_and_text(report):
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert sorted(plain) == ["boundaries", "notes", "optimizer", "problems", "schedule", "stages"]
    assert plain["boundaries"][0]["crossings"][0]["shape"] == [3, 8]
    assert plain["stages"][1]["module"] == "Middle"
    text = str(report)
    lines = text.splitlines()
    assert lines[0].split() == ["stage", "begins", "with", "parameters", "trained", "weights",
                                "gradients", "adamw", "forward"]  # fmt: skip
    assert "boundary 0→1: 3 messages forward" in text
    assert "a plain tuple of its tensors: 5 and 4" in text
    row, _ = [line for line in lines if line.strip().startswith("wide")]
    assert row.split() == ["wide", "bool[3,", "2000]", "5.86", "KiB", "own", "message", "no",
                           "stage", "0", "2"]  # fmt: skip
    assert "1F1B with 6 micro-batches: ranks wait 25 % of the time" in text
    assert text.rstrip().endswith("no problems")


def test_wrong_arguments(batch):
    part = partition()
    with pytest.raises(ValueError, match="optimizer is one of 'sgd', .*, not 'sdg'"):
        pipecodec.doctor(part, optimizer="sdg", **batch)
    with pytest.raises(ValueError, match="micro_batches must be a positive number, not 0"):
        pipecodec.doctor(part, micro_batches=0, **batch)
    with pytest.raises(TypeError, match="'y' is not an input of the model"):
        pipecodec.doctor(part, y=1, **batch)


def test_the_function_has_the_packages_name():
    assert callable(pipecodec.doctor)
    assert isinstance(pipecodec.doctor(partition()), Report)
