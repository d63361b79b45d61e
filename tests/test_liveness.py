"""The values that must enter each stage, from split graphs and from signatures."""

from __future__ import annotations

import inspect
import operator

import pytest
import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module

from pipecodec.stages.liveness import OptionalArg, analyze_graph, analyze_signatures, arg_name


class SplitGraph:
    """Build a split graph by hand: inputs, stages and items in the order of the calls."""

    def __init__(self):
        self.graph = fx.Graph()
        self.root = {}

    def input(self, name):
        return self.graph.placeholder(name)

    def stage(self, target, *args, **kwargs):
        self.root[target] = nn.Identity()
        return self.graph.call_module(target, args, kwargs)

    def item(self, value, key):
        return self.graph.call_function(operator.getitem, (value, key))

    def analyze(self, output, order=None):
        self.graph.output(output)
        return analyze_graph(fx.GraphModule(self.root, self.graph), order)


@pytest.fixture
def g():
    return SplitGraph()


def test_chain(g):
    x = g.input("x")
    a = g.stage("submod_0", x)
    found = g.analyze(g.stage("submod_1", a))
    assert found.liveness == [["x"], ["submod_0"]]
    assert found.stage_id_2_arg_names == {-1: ["x"], 0: ["x"], 1: ["submod_0"]}


def test_skip_over_two_stages_stops_after_its_last_use(g):
    x, mask = g.input("x"), g.input("mask")
    a = g.stage("submod_0", x)
    left, right = g.item(a, 0), g.item(a, 1)
    b = g.stage("submod_1", left)
    c = g.stage("submod_2", b)
    d = g.stage("submod_3", c, right, mask)
    found = g.analyze(g.stage("submod_4", d))
    assert found.liveness == [
        ["x", "mask"],
        ["submod_0.0", "mask", "submod_0.1"],
        ["submod_1", "mask", "submod_0.1"],
        ["submod_2", "submod_0.1", "mask"],
        ["submod_3"],
    ]


def test_one_output_used_by_two_stages_is_listed_once(g):
    x = g.input("x")
    a = g.stage("submod_0", x)
    b = g.stage("submod_1", a, a)
    found = g.analyze(g.stage("submod_2", b, a))
    assert found.liveness == [["x"], ["submod_0"], ["submod_1", "submod_0"]]
    assert found.stage_id_2_arg_names[1] == ["submod_0", "submod_0"]


def test_nested_items_are_named_from_the_outside_in(g):
    a = g.stage("submod_0", g.input("x"))
    inner = g.item(g.item(a, 1), 0)
    found = g.analyze(g.stage("submod_1", inner, g.item(g.item(a, 2), "mask")))
    assert found.liveness[1] == ["submod_0.1.0", "submod_0.2.mask"]


def test_a_prefix_replaces_its_items(g):
    a = g.stage("submod_0", g.input("x"))
    pair = g.item(a, 1)
    b = g.stage("submod_1", g.item(pair, 0), g.item(a, 0))
    found = g.analyze(g.stage("submod_2", b, pair))
    assert found.liveness[1:] == [["submod_0.0", "submod_0.1"], ["submod_1", "submod_0.1"]]
    assert found.stage_id_2_arg_names[1] == ["submod_0.1.0", "submod_0.0"]


def test_stage_10_is_no_item_of_stage_1(g):
    value = g.input("x")
    made = []
    for k in range(12):
        value = g.stage(f"submod_{k}", value)
        made.append(value)
    found = g.analyze(g.stage("submod_12", value, made[1], made[10]))
    assert found.liveness[2] == ["submod_1"]
    assert found.liveness[3] == ["submod_2", "submod_1"]
    assert found.liveness[11] == ["submod_10", "submod_1"]
    assert found.liveness[12] == ["submod_11", "submod_1", "submod_10"]
    assert len(found.liveness) == 13


def test_what_only_the_output_takes_travels_to_the_last_stage(g):
    x, labels = g.input("x"), g.input("labels")
    a = g.stage("submod_0", x)
    b = g.stage("submod_1", a)
    c = g.stage("submod_2", b)
    found = g.analyze({"logits": c, "encoder": (g.item(a, 0), labels), "none": None})
    assert found.liveness == [
        ["x", "labels"],
        ["submod_0", "labels"],
        ["submod_1", "labels", "submod_0.0"],
    ]


def test_inputs_keep_signature_order_and_unused_ones_do_not_travel(g):
    g.input("unused")
    late, x, early = g.input("late"), g.input("x"), g.input("early")
    a = g.stage("submod_0", early, x)
    found = g.analyze(g.stage("submod_1", a, late))
    assert found.liveness == [["late", "x", "early"], ["submod_0", "late"]]
    assert found.stage_id_2_arg_names[-1] == ["unused", "late", "x", "early"]


@pytest.mark.parametrize("prefix", ["submod_", "submod_pp_", "layers."])
def test_independent_stages_out_of_order(g, prefix):
    x, y = g.input("x"), g.input("y")
    b = g.stage(f"{prefix}1", y)
    a = g.stage(f"{prefix}0", x)
    found = g.analyze(g.stage(f"{prefix}2", a, b))
    assert found.liveness == [["x", "y"], ["y", "submod_0"], ["submod_0", "submod_1"]]
    assert found.stage_id_2_arg_names == {
        -1: ["x", "y"],
        0: ["x"],
        1: ["y"],
        2: ["submod_0", "submod_1"],
    }


def test_order_gives_the_stage_numbers(g):
    x = g.input("x")
    a = g.stage("head", x)
    b = g.stage("side", x)
    found = g.analyze(g.stage("tail", a, b), order=["side", "head", "tail"])
    assert found.liveness == [["x"], ["x", "submod_0"], ["submod_1", "submod_0"]]


@pytest.mark.parametrize("names", [("body", "head"), ("b1", "b2"), ("b0", "b"), ("a1", "b1")])
def test_other_names_run_in_graph_order(g, names):
    a = g.stage(names[0], g.input("x"))
    found = g.analyze(g.stage(names[1], g.item(a, 1)))
    assert found.liveness == [["x"], ["submod_0.1"]]


def test_keyword_arguments_keep_their_parameter(g):
    x, mask = g.input("x"), g.input("mask")
    a = g.stage("submod_0", x, attention_mask=mask)
    found = g.analyze(g.stage("submod_1", hidden=a, mask=mask))
    assert found.liveness == [["x", "mask"], ["submod_0", "mask"]]
    assert found.stage_id_2_arg_names[0] == ["x", ("attention_mask", "mask")]
    assert found.stage_id_2_arg_names[1] == [("hidden", "submod_0"), ("mask", "mask")]


def test_graph_made_by_split_module():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, scale):
            first = self.a(x)
            return self.c(self.b(first) + first) * scale

    model = Model()
    stage_of = {"a": 0, "b": 1, "add": 1, "c": 2, "mul": 2}
    traced = fx.symbolic_trace(model)
    split = split_module(traced, model, lambda node: stage_of[node.name])
    found = analyze_graph(split)
    assert found.liveness == [["x", "scale"], ["submod_0", "scale"], ["submod_1", "scale"]]


def refused_constant(g):
    return g.stage("submod_0", g.input("x"), 3)


def refused_nested_argument(g):
    return g.stage("submod_0", [g.input("x")])


def refused_computation(g):
    return g.graph.call_function(torch.add, (g.stage("submod_0", g.input("x")), 1))


def refused_slice(g):
    return g.item(g.stage("submod_0", g.input("x")), slice(0, 1))


def refused_dotted_key(g):
    return g.item(g.stage("submod_0", g.input("x")), "a.b")


def refused_second_call(g):
    return g.stage("submod_0", g.stage("submod_0", g.input("x")))


def refused_name_clash(g):
    return g.stage("submod_0", g.input("submod_0"))


def refused_no_stage(g):
    return g.input("x")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (refused_constant, r"stage 0 \(submod_0\) takes 3, which is not one value of the graph"),
        (refused_nested_argument, r"stage 0 \(submod_0\) takes \[x\], which is not one value"),
        (refused_computation, "may hold placeholders, stages, getitem and output only; move %add"),
        (refused_slice, "only a constant integer, or a string without a dot"),
        (refused_dotted_key, "only a constant integer, or a string without a dot"),
        (refused_second_call, "stage submod_0 is called twice"),
        (refused_name_clash, "two values are named 'submod_0'; rename the input"),
        (refused_no_stage, "the graph calls no stage"),
    ],
)
def test_graphs_that_are_refused(g, make, reason):
    with pytest.raises(ValueError, match=reason):
        g.analyze(make(g))


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (["b", "a"], r"stage 0 \(b\) takes 'submod_1', which stage 1 makes; pass order="),
        (["a"], "order must name every stage once"),
        (["a", "a"], "order must name every stage once"),
    ],
)
def test_orders_that_are_refused(g, order, reason):
    a = g.stage("a", g.input("x"))
    with pytest.raises(ValueError, match=reason):
        g.analyze(g.stage("b", a), order)


def parameters(text):
    namespace = {}
    exec(f"def forward({text}): pass", namespace)
    return list(inspect.signature(namespace["forward"]).parameters.values())


def analyze(signatures, outputs, inputs):
    return analyze_signatures([parameters(s) for s in signatures], outputs, inputs)


def test_declared_stages():
    found = analyze(
        ["ids, mask", "hidden", "hidden, mask", "hidden, labels"],
        [["hidden"], ["hidden"], ["hidden"], None],
        ["ids", "mask", "labels"],
    )
    assert found.liveness == [
        ["ids", "mask", "labels"],
        ["hidden", "mask", "labels"],
        ["hidden", "mask", "labels"],
        ["hidden", "labels"],
    ]
    assert found.stage_id_2_arg_names[2] == ["hidden", "mask"]
    assert found.stage_id_2_arg_names[-1] == ["ids", "mask", "labels"]


def test_bypassed_values_are_in_definition_order():
    found = analyze(
        ["x", "a", "c", "e, d, b, y, x"],
        [["a", "b"], ["c", "d"], ["e"], None],
        ["y", "x"],
    )
    assert found.liveness == [
        ["y", "x"],
        ["a", "y", "x", "b"],
        ["c", "y", "x", "b", "d"],
        ["e", "d", "b", "y", "x"],
    ]


def test_a_declared_stage_that_gives_a_name_ends_the_earlier_value():
    found = analyze(["x", "h", "h, x"], [["h"], ["h", "x"], None], ["x"])
    assert found.liveness == [["x"], ["h"], ["h", "x"]]


def test_an_undeclared_stage_receives_what_it_may_leave_alone():
    found = analyze(["x", "h", "h, x"], [None, None, None], ["x"])
    assert found.liveness == [["x"], ["h", "x"], ["h", "x"]]


def test_any_earlier_undeclared_stage_may_give_what_is_required():
    found = analyze(["x", "h", "h, extra", "h, extra"], [None] * 4, ["x"])
    assert found.liveness == [["x"], *[["h", "extra"]] * 3]


def test_what_an_earlier_stage_took_is_known_to_exist():
    found = analyze(["x", "h, k", "h", "h, k"], [None] * 4, ["x"])
    assert found.liveness == [["x"], ["h", "k"], ["h", "k"], ["h", "k"]]


def test_default_arguments_are_left_out_where_nothing_gives_them():
    found = analyze(["x, mask=None, scale=1.0", "h, mask=None"], [["h"], None], ["x", "scale"])
    assert found.stage_id_2_arg_names == {
        -1: ["x", "scale"],
        0: ["x", OptionalArg("scale", "scale")],
        1: ["h"],
    }
    assert found.liveness == [["x", "scale"], ["h"]]


def test_default_arguments_wait_for_the_first_stage_that_may_give_them():
    found = analyze(["x", "h", "h", "h, mask=None"], [["h"], None, None, None], ["x"])
    assert found.liveness == [["x"], ["h"], ["h", "mask"], ["h", "mask"]]
    assert found.stage_id_2_arg_names[3] == ["h", OptionalArg("mask", "mask")]


def test_what_is_optional_first_and_required_later_travels_all_the_way():
    found = analyze(
        ["x", "h", "h", "h, mask=None", "h, mask"], [None, None, None, ["h"], None], ["x"]
    )
    assert found.liveness == [["x"], *[["h", "mask"]] * 4]


def test_an_undeclared_first_stage_must_give_what_no_input_is():
    found = analyze(["x", "h, k", "k"], [None, ["h"], None], ["x"])
    assert found.liveness == [["x"], ["h", "k"], ["k"]]


def test_keyword_only_and_variable_parameters():
    found = analyze(["x, *rest, mask, **more"], [None], ["x", "mask"])
    assert found.stage_id_2_arg_names[0] == ["x", ("mask", "mask")]
    assert [arg_name(arg) for arg in found.stage_id_2_arg_names[0]] == ["x", "mask"]


def test_unused_inputs_do_not_travel():
    found = analyze(["x", "h"], [["h"], None], ["unused", "x"])
    assert found.liveness == [["x"], ["h"]]
    assert found.stage_id_2_arg_names[-1] == ["unused", "x"]


@pytest.mark.parametrize(
    ("signatures", "outputs", "reason"),
    [
        (["x, y"], [None], r"stage 0 takes 'y', which no input .* available: \['x'\]"),
        (["x", "h, z"], [["h"], None], r"stage 1 takes 'z', .* available: \['h', 'x'\]\. Add it"),
        (["x, y=1, /"], [None], "stage 0: the positional-only parameter 'y' has a default"),
    ],
)
def test_signatures_that_are_refused(signatures, outputs, reason):
    inputs = ["x", "y"] if "/" in signatures[0] else ["x"]
    with pytest.raises(ValueError, match=reason):
        analyze(signatures, outputs, inputs)
