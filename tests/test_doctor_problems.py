"""Each problem: a partition that has it, and one that has not."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from torch import nn

import pipecodec
from pipecodec.report import StageReport
from pipecodec.report.problems import judge_stages
from tests.small_stages import Function


def stages(*more, last=None):
    body = last or (lambda v: v["h"].sum())
    return [nn.Linear(4, 4), *more, Function("h", body)]


def diagnose(modules, *args, more=(), **options):
    part = pipecodec.partition_modules(modules, **options)
    x = torch.ones(2, 4) if not args else args[0]
    return pipecodec.doctor(part, x, more=more)


def of(report, word):
    return [problem for problem in report.problems if word in problem.fault]


class Hidden(nn.Linear):
    def forward(self, h):
        return super().forward(h)


def sound():
    torch.manual_seed(0)
    return [nn.Linear(4, 4), Hidden(4, 4), Hidden(4, 4)]


def test_a_sound_partition_has_no_problem():
    assert diagnose(sound()).problems == []


def test_a_stage_without_a_parameter():
    report = diagnose([nn.Linear(4, 4), Function("h", lambda v: v["h"] * 2), Hidden(4, 4)])
    ((stage, fault, remedy),) = report.problems
    assert (stage, fault) == (1, "it has no parameter: a rank that trains nothing")
    assert "split=" in remedy


def test_a_frozen_stage():
    modules = sound()
    modules[1].requires_grad_(False)
    ((stage, fault, remedy),) = diagnose(modules).problems
    assert (stage, fault) == (1, "none of its parameters is trainable")
    assert "requires_grad" in remedy
    modules[1].bias.requires_grad_(True)
    assert diagnose(modules).problems == []


class Unknown:
    pass


def give(value):
    class Giver(nn.Linear):
        def forward(self, x):
            return {"h": super().forward(x), "extra": value}

    class Taker(nn.Linear):
        def forward(self, h, extra):
            return super().forward(h)

    return [Giver(4, 4), Taker(4, 4)]


def test_leaves_that_cannot_travel():
    value = {"deep": [1, Unknown(), torch.ones(2).to_sparse()], "good": 2, "other": Unknown()}
    report = diagnose(give(value))
    faults = [(stage, fault) for stage, fault, _ in report.problems]
    assert len(faults) == 3  # all of them, not the first alone
    assert all(stage == 0 for stage, _ in faults)
    texts = [fault for _, fault in faults]
    assert texts[0].startswith("extra['deep'][1] is of type ") and "Unknown" in texts[0]
    assert texts[1].startswith("extra['deep'][2] is not strided")
    assert texts[2].startswith("extra['other'] is of type ")
    assert "pipecodec.register" in report.problems[0].remedy
    boundary = report.boundaries[0]
    assert (boundary.messages, boundary.nbytes) == (None, None)
    assert [(c.path, c.travels) for c in boundary.crossings] == [("h", "tunnel"),
                                                                 ("extra", "cannot")]  # fmt: skip
    good = diagnose(give({"deep": [1, torch.ones(2)], "good": 2}))
    assert good.problems == []
    assert good.boundaries[0].messages == (2, 1)


def test_sizes_that_vary_under_static_settings():
    report = diagnose(sound(), more=[(torch.ones(2, 4),), (torch.ones(3, 4),)])
    faults = [(stage, fault) for stage, fault, _ in report.problems]
    assert [stage for stage, _ in faults] == [0, 1]
    for k, (_, fault) in enumerate(faults):
        assert fault.startswith(f"boundary {k}→{k + 1}: h is float32 [3, 4] now and was float32 [2")
        assert fault.endswith("(batch 2 of more=)")
    assert all("dynamic_shape=True" in remedy for _, _, remedy in report.problems)
    assert diagnose(sound(), more=[(torch.zeros(2, 4),)]).problems == []


def test_structures_that_vary():
    class Giver(nn.Linear):
        def forward(self, x):
            parts = list(super().forward(x))
            return {"h": parts[0], "extra": parts if len(x) > 2 else None}

    modules = [Giver(4, 4), give(None)[1]]
    ((stage, fault, _),) = diagnose(modules, more=[(torch.ones(3, 4),)]).problems
    assert stage == 0
    assert "boundary 0→1" in fault
    assert diagnose(modules, more=[(torch.ones(2, 4),)]).problems == []


def test_a_stage_that_raises():
    def fail(v):
        if len(v["h"]) > 2:
            raise ArithmeticError("planted")
        return v["h"]

    modules = [nn.Linear(4, 4), Function("h", fail), Hidden(4, 4)]
    modules[1].weight = nn.Parameter(torch.ones(20))
    report = diagnose(modules, torch.ones(3, 4))
    (stage, fault, _), *others = report.problems
    assert (stage, fault) == (1, "it raises ArithmeticError: planted")
    assert others == []
    assert [boundary.index for boundary in report.boundaries] == [0]
    assert all(stage.seconds is None for stage in report.stages)
    ((_, fault, _),) = diagnose(modules, more=[(torch.ones(3, 4),)]).problems[-1:]
    assert "planted (batch 1 of more=)" in fault
    assert diagnose(modules).problems == []


def with_output(of_hidden):
    class Giver(nn.Linear):
        def forward(self, x):
            hidden = super().forward(x)
            return {"h": hidden, "state": hidden * 2, "aux": hidden.sum()}

    class Taker(nn.Linear):
        def forward(self, h, state, aux):
            logits = super().forward(h)
            return of_hidden(logits, state, aux)

    return [Giver(4, 4), Taker(4, 4)]


def test_much_that_only_the_output_needs():
    modules = with_output(lambda logits, state, aux: {"loss": logits.sum(), "states": [state]})
    ((stage, fault, remedy),) = diagnose(modules).problems
    assert stage == 0
    # of hidden (32), state (32) and aux (4)
    assert fault == (
        "32 B of 68 B cross to stage 1 for the output alone, and no loss needs them: state"
    )
    assert 'outputs=["loss"]' in remedy
    for body in (
        lambda logits, state, aux: {"loss": logits.sum() + state.sum(), "states": [state]},
        lambda logits, state, aux: {"logits": logits, "states": [state]},  # nobody knows the loss
        lambda logits, state, aux: {"loss": logits.sum() + state.sum() * 0, "aux": aux},
    ):
        assert diagnose(with_output(body)).problems == []


@pytest.mark.parametrize("key", ["loss", "logits"])
def test_a_constant_that_only_the_output_needs(key):
    class Taker(nn.Linear):
        def forward(self, h, extra):
            return {key: super().forward(h).sum(), "extra": extra}

    found = diagnose([give(torch.ones(99))[0], Taker(4, 4)]).problems
    assert len(found) == (key == "loss")  # without a loss the whole output may be wanted


def test_a_cache():
    modules = with_output(
        lambda logits, state, aux: {"loss": logits.sum(), "past_key_values": ((state, aux),)}
    )
    ((stage, fault, remedy),) = diagnose(modules).problems
    assert (stage, fault) == (0, "a cache of 36 B crosses to stage 1: state, aux")
    assert "use_cache=False" in remedy


def test_a_cache_that_cannot_travel():
    class DynamicCache:
        pass

    report = diagnose(give(DynamicCache()))
    (_, first, register), (_, second, setting) = report.problems
    assert "extra is of type " in first and "DynamicCache" in first and "register" in register
    assert second == "a cache crosses to stage 1: extra"
    assert "use_cache=False" in setting


def test_a_backward_that_raises():
    class Overwriter(nn.Linear):
        def forward(self, h):
            rooted = super().forward(h).exp()
            return (rooted * rooted).sum() + rooted.mul_(2).sum()

    ((stage, fault, _),) = diagnose([nn.Linear(4, 4), Overwriter(4, 4)]).problems
    assert stage is None
    assert fault.startswith("backward raises RuntimeError: one of the variables")


def test_a_stage_that_works_in_place_on_values_it_received():
    """Its copy of them, as on an engine, and not the memory that the stage before needs."""

    class Roots(nn.Linear):
        def forward(self, x):
            return {"h": super().forward(x).exp()}

    class InPlace(nn.Linear):
        def forward(self, h):
            return super().forward(h.mul_(2))

    assert diagnose([Roots(4, 4), InPlace(4, 4)]).problems == []


def reports(**changes):
    plain = StageReport(0, "m", 10, 10, False, (), 40, 40, 80, 1.0, 0.25)
    return [dataclasses.replace(plain, index=k, **{name: values[k] for name, values in
                                                   changes.items()}) for k in range(4)]  # fmt: skip


@pytest.fixture
def part():
    return pipecodec.partition_modules(sound())


def test_times_out_of_balance(part):
    uneven = list(judge_stages(part, reports(seconds=[1, 1, 1, 1.81])))
    ((stage, fault, remedy),) = uneven
    assert (stage, fault) == (3, "its forward takes 1.5 times the mean of the stages")
    assert 'balance="time"' in remedy
    assert list(judge_stages(part, reports(seconds=[1, 1, 1, 1.7]))) == []
    # too short to say anything
    assert list(judge_stages(part, reports(seconds=[1e-4, 1e-4, 1e-4, 9e-4]))) == []
    assert list(judge_stages(part, reports(seconds=[None] * 4))) == []


def test_memory_out_of_balance(part):
    sizes = [80, 80, 800, 80]  # beside 80 of each stage, so 880 of 340 in the mean
    in_kib = {name: [40 * 1024] * 4 for name in ("weight_bytes", "gradient_bytes")}
    uneven = reports(optimizer_bytes=[1024 * each for each in sizes], **in_kib)
    assert list(judge_stages(part, uneven)) == []  # 880 KiB at most
    in_mib = {name: [40 * 2**20] * 4 for name in ("weight_bytes", "gradient_bytes")}
    uneven = reports(optimizer_bytes=[2**20 * each for each in sizes], **in_mib)
    ((stage, fault, _),) = judge_stages(part, uneven)
    assert stage == 2
    assert fault == "its weights, gradients and optimizer take 2.6 times the mean of the stages"


def test_a_weight_that_no_stage_holds():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    for k, count in [(2, 1), (3, 0)]:
        part = pipecodec.partition_modules(list(model)[:k], model=model)
        found = of(pipecodec.doctor(part, torch.ones(2, 4)), "no stage holds '2.weight', '2.bias'")
        assert len(found) == count
        assert all(stage is None for stage, _, _ in found)


def test_lines_are_not_too_long():
    value = {f"a_long_key_{k}": Unknown() for k in range(3)}
    text = str(diagnose(give(value)))
    assert text.count("is not taken apart") == 3
    assert max(map(len, text.splitlines())) <= 110


def test_a_warning_is_a_problem_that_does_not_break_training():
    without = Function("h", lambda v: v["h"] * 2)
    report = diagnose([*give(Unknown()), without])
    assert [problem.severity for problem in report.problems] == ["error", "warning"]
    assert (report.errors, report.warnings) == (report.problems[:1], report.problems[1:])
    assert [each["severity"] for each in report.to_dict()["problems"]] == ["error", "warning"]
    (copied,) = pickle.loads(pickle.dumps(report.warnings))
    assert copied == report.warnings[0] and copied.severity == "warning"


def test_problems_are_in_the_text():
    text = str(diagnose([nn.Linear(4, 4), Function("h", lambda v: v["h"] * 2), Hidden(4, 4)]))
    assert "\nno problems\n\nwarnings\n  stage 1: it has no parameter" in text
    assert "\n    → cut elsewhere" in text
