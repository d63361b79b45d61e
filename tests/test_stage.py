"""Names and values at one stage."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Mapping

import pytest
import torch
from torch import fx, nn

from pipecodec.stages.liveness import OptionalArg, analyze_graph
from pipecodec.stages.stage import Absent, Stage, bind_inputs

ABSENT = Absent.ABSENT


def middle(live, args, next_args=(), outputs=None, next_live=()):
    """Stage 1 of three."""
    return Stage([["x"], live, list(next_live)], {-1: ["x"], 0: ["x"], 1: args, 2: next_args}, 1,
                 outputs=outputs)  # fmt: skip


def after(stage, env, output):
    stage.name_outputs(env, output)
    return env


def test_live_values_become_arguments():
    stage = middle(["h", "mask", "labels"], ["mask", "h", ("scale", "labels")])
    env = stage.bind([1, 2, 3])
    assert env == {"h": 1, "mask": 2, "labels": 3}
    assert stage.arguments(env) == ((2, 1), {"scale": 3})


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3]])
def test_wrong_number_of_values(values):
    reason = rf"stage 1 receives {len(values)} values, .* lists 2: \['h', 'm'\]"
    with pytest.raises(ValueError, match=reason):
        middle(["h", "m"], ["h"]).bind(values)


def test_first_stage_takes_all_inputs_or_the_needed_ones():
    stage = Stage([["x", "z"], ["submod_0"]], {-1: ["x", "y", "z"], 0: ["z", "x"]}, 0)
    for values in ([1, 2, 3], [1, 3]):
        assert stage.arguments(stage.bind(values)) == ((3, 1), {})
    with pytest.raises(ValueError, match="stage 0 receives 4 values"):
        stage.bind([1, 2, 3, 4])


def test_liveness_may_be_a_dict():
    stage = Stage({0: ["x"], 1: ["submod_0"]}, {-1: ["x"], 0: ["x"], 1: ["submod_0"]}, 1)
    assert stage.arguments(stage.bind([5])) == ((5,), {})


@pytest.mark.parametrize("live", ["submod_0.1.0", "submod_0.1", "submod_0"])
def test_an_argument_is_taken_out_of_a_live_prefix(live):
    whole = {"submod_0": ("a", ("b", "c"))}
    whole["submod_0.1"] = whole["submod_0"][1]
    whole["submod_0.1.0"] = "b"
    stage = middle([live], ["submod_0.1.0"])
    assert stage.arguments(stage.bind([whole[live]])) == (("b",), {})


class Output(OrderedDict):
    """Like transformers' ModelOutput: an int gives the value at that position."""

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Attributes(Mapping):
    def __init__(self, **values):
        self.values_ = values

    def __getitem__(self, key):
        return self.values_[key]

    def __iter__(self):
        return iter(self.values_)

    def __len__(self):
        return len(self.values_)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("v", "submod_1"),
        ((0, [1, "v"]), "submod_1.1.1"),
        ([0, {"k": "v"}], "submod_1.1.k"),
        ({"a": 0, "b": "v"}, "submod_1.b"),
        ({"a": 0, "b": "v"}, "submod_1.1"),
        ({1: "v", 0: 0}, "submod_1.1"),
        (Output(a=0, b=("v",)), "submod_1.b.0"),
        (Output(a=0, b=("v",)), "submod_1.1.0"),
        (Attributes(a=0, b="v"), "submod_1.b"),
        (Attributes(a=0, b="v"), "submod_1.1"),
    ],
)
def test_canonical_names_of_outputs(output, name):
    stage = middle(["x"], ["x"], [name], next_live=[name])
    assert stage.collect(after(stage, {"x": 1}, output), [name]) == ["v"]


def test_name_of_a_stage_given_by_the_caller():
    stage = Stage([["x"], ["blocks.0.1"]], {-1: ["x"], 0: ["x"], 1: ["blocks.0.1"]}, 0,
                  name="blocks.0")  # fmt: skip
    assert stage.collect(after(stage, {"x": 1}, (2, 3)), ["blocks.0.1"]) == [3]
    with pytest.raises(ValueError, match=r"stage 0 has to pass on 'blocks\.0\.1'"):
        stage.collect(after(stage, {"x": 1}, (2,)), ["blocks.0.1"])


def test_canonical_names_keep_keys_and_positions_out_of_the_name_space():
    live = ["mask", "submod_0"]
    stage = Stage([["x", "mask"], live, ["mask"]], {-1: [], 0: ["x"], 1: live, 2: ["mask"]}, 0)
    for output in (torch.ones(1), {"mask": "other"}):
        values = stage.collect(after(stage, {"x": 1, "mask": 2}, output), live)
        assert values[0] == 2
        assert values[1] is output


def test_an_unused_output_binds_to_nothing_in_a_split_graph():
    stage = middle(["mask", "submod_0"], ["submod_0"], ["mask", "submod_0"], next_live=["mask"])
    assert after(stage, {"mask": 1}, 2) == {"mask": 1, "submod_1": 2}


@pytest.mark.parametrize(
    ("outputs", "output", "named"),
    [
        ("h", (1, 2), {"h": (1, 2)}),
        ("h", {"h": 1}, {"h": {"h": 1}}),
        (["h"], 1, {"h": 1}),
        (["h"], (1,), {"h": 1}),
        (["h"], [1, 2], {"h": [1, 2]}),
        (["h", "m"], (1, None), {"h": 1, "m": None}),
        (["m", "h"], {"h": 1, "more": 2, "m": 3}, {"h": 1, "m": 3}),
        ([], (), {}),
    ],
)
def test_declared_outputs(outputs, output, named):
    stage = middle(["x"], ["x"], ["h"], outputs)
    assert after(stage, {}, output) == {"submod_1": output, **named}


@pytest.mark.parametrize(
    ("outputs", "output", "reason"),
    [
        (["h", "m"], (1,), r"stage 1 declares 2 outputs, \['h', 'm'\], but returned 1 values"),
        (["h"], (1, 2), "declares 1 outputs, .* returned 2 values; .* one string for the whole"),
        (["h", "m"], {"h": 1, "n": 2}, r"the mapping it returned lacks \['m'\]; its keys are"),
    ],
)
def test_declared_outputs_that_do_not_fit(outputs, output, reason):
    with pytest.raises(ValueError, match=reason):
        after(middle(["x"], ["x"], ["h"], outputs), {}, output)


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ({"h": 1, 2: 3}, {"h": 1}),
        (Output(h=1), {"h": 1}),
        (5, {"h": 5}),
        (None, {"h": None}),
        ([1, 2], {"h": [1, 2]}),
        ((1, 2), {"h": 1, "m": 2}),
    ],
)
def test_undeclared_outputs(output, named):
    stage = middle(["x"], ["x"], ["h", OptionalArg("m", "m")])
    assert after(stage, {}, output) == {"submod_1": output, **named}


def test_more_values_than_the_next_stage_takes():
    with pytest.raises(ValueError, match=r"stage 1 returned 2 values, .* 2 takes only \['h'\]"):
        after(middle(["x"], ["x"], ["h"]), {}, (1, 2))


def test_a_name_means_its_latest_producer():
    stage = middle(["h"], ["h"], ["h"])
    env = after(stage, stage.bind(["old"]), {"h": "new"})
    assert stage.collect(env, ["h"]) == ["new"]


def test_missing_value_names_what_is_there_and_what_to_do():
    stage = middle(["h"], ["h"], ["h", "mask"])
    env = after(stage, {"h": 1, "gone": ABSENT}, {"hiden": 2})
    reason = (
        r"stage 1 has to pass on 'mask', but there is only h, submod_1, hiden\. .*"
        r"declare outputs= .* inputs="
    )
    with pytest.raises(ValueError, match=reason):
        stage.collect(env, ["h", "mask"])


def test_a_missing_item_of_the_own_output_is_never_passed_over():
    stage = middle(["x"], ["x"], ["x"], next_live=["x", "submod_1.4"])
    with pytest.raises(ValueError, match=r"stage 1 has to pass on 'submod_1\.4'"):
        stage.collect(after(stage, {"x": 1}, (1, 2)), ["x", "submod_1.4"])


def test_optional_values_travel_as_absent_and_are_left_out():
    stage = middle(["x"], ["x"], ["h", OptionalArg("m", "m")])
    values = stage.collect(after(stage, {"x": 1}, 7), ["h", "m", "later"])
    assert values == [7, ABSENT, ABSENT]
    receiver = middle(["h", "m"], ["h", OptionalArg("mask", "m")])
    assert receiver.arguments(receiver.bind(values[:2])) == ((7,), {})
    assert receiver.arguments(receiver.bind([7, None])) == ((7,), {"mask": None})


def test_required_argument_that_is_absent():
    stage = middle(["h", "m"], ["h", ("mask", "m")])
    with pytest.raises(ValueError, match="stage 1 takes 'm', which it did not receive; there is h"):
        stage.arguments(stage.bind([1, ABSENT]))


def test_inputs_by_position_and_name():
    assert bind_inputs(["a", "b", "c"], (1,), {"c": 3}) == [1, ABSENT, 3]


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((1, 2), {}, r"2 inputs are given, but the model takes \['a'\]"),
        ((1,), {"a": 2}, "input 'a' is given twice"),
        (
            (),
            {"labels": 2},
            r"'labels' is not an input .* \['a'\]; leave it out, give partition .* inputs= of",
        ),
    ],
)
def test_inputs_that_do_not_fit(args, kwargs, reason):
    with pytest.raises(TypeError, match=reason):
        bind_inputs(["a"], args, kwargs)


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, {"deep": (x + 2, x + 3)}


class Add(nn.Module):
    def forward(self, a, b, *, scale):
        return (a + b) * scale


def test_a_split_graph_run_stage_by_stage_equals_the_graph():
    graph = fx.Graph()
    x, scale = graph.placeholder("x"), graph.placeholder("scale")
    first = graph.call_module("submod_0", (x,))
    item = graph.call_function
    deep = item(operator.getitem, (item(operator.getitem, (first, 1)), "deep"))
    second = graph.call_module(
        "submod_1", (item(operator.getitem, (first, 0)), x), {"scale": scale}
    )
    third = graph.call_module(
        "submod_2", (second, item(operator.getitem, (deep, 1))), {"scale": scale}
    )
    graph.output(third)
    model = fx.GraphModule({"submod_0": Pair(), "submod_1": Add(), "submod_2": Add()}, graph)
    flow = analyze_graph(model)
    assert flow.liveness == [
        ["x", "scale"],
        ["submod_0.0", "x", "scale", "submod_0.1.deep.1"],
        ["submod_1", "submod_0.1.deep.1", "scale"],
    ]
    values = [torch.tensor(3.0), torch.tensor(2.0)]
    expected = model(*values)
    for k in range(3):
        stage = Stage(flow.liveness, flow.stage_id_2_arg_names, k)
        env = stage.bind(values)
        args, kwargs = stage.arguments(env)
        output = model.get_submodule(f"submod_{k}")(*args, **kwargs)
        if k < 2:
            stage.name_outputs(env, output)
            values = stage.collect(env, flow.liveness[k + 1])
    assert torch.equal(output, expected)
