"""Graphs that other tools split, as partitions: outputs, gradients, ties and state dicts."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module

from pipecodec.stages import run_local
from pipecodec.stages.split_graph import is_split_graph, partition_graph

from .simdev import TORCH
from .split_graphs import (
    MODELS,
    WARNINGS,
    Skips,
    equal,
    gpt2,
    gpt2_batch,
    leaves,
    pipe_of,
    run,
    same,
    split_skips,
)

pytestmark = WARNINGS


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
@pytest.mark.parametrize("name", MODELS)
def test_pipe(name):
    make, make_batch, cuts = MODELS[name]
    model, batch = make(), make_batch()
    expected = run(model, model, **batch)
    pipe = pipe_of(model, batch, cuts)
    assert is_split_graph(pipe)
    part = partition_graph(pipe, model)
    assert len(part.stages) == 3
    assert part.input_names == list(batch)
    found = run(lambda **kwargs: run_local(part, **kwargs), model, **batch)
    assert same(found, expected)
    assert part.state_dict_to_model([stage.state_dict() for stage in part.stages]).keys() == (
        model.state_dict().keys()
    )
    names = {key for stage in part.stages for key in stage.state_dict()}
    assert names <= model.state_dict().keys()


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_pipe_without_its_model_has_one_parameter_for_each_weight(name):
    make, make_batch, cuts = MODELS[name]
    model, batch = make(), make_batch()
    expected = run(model, model, **batch)[1]
    part = partition_graph(pipe_of(model, batch, cuts))
    sum(
        leaf.float().square().mean() for leaf in leaves(run_local(part, **batch))
        if leaf.requires_grad
    ).backward()  # fmt: skip
    found = [{p: p.grad for p in stage.parameters()} for stage in part.stages]
    everything = {p: grad for each in found for p, grad in each.items()}
    assert len(everything) == len(expected)
    (tied,) = part.tie_weights.values()
    assert [stage for _, stage in tied] == [0, 2]
    paths, gradients = [path for path, _ in tied], list(expected.values())
    weight = part.stages[0].get_parameter(paths[0])
    assert weight is part.stages[2].get_parameter(paths[1])
    assert torch.equal(weight.grad, gradients[0])
    model.zero_grad()


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
def test_a_pipe_stays_as_it_is():
    model, batch = gpt2(), gpt2_batch()
    pipe = pipe_of(model, batch, MODELS["gpt2"][2])
    before = {key: id(value) for key, value in pipe.state_dict(keep_vars=True).items()}
    expected = leaves(pipe(**batch))
    part = partition_graph(pipe, model)
    assert {key: id(value) for key, value in pipe.state_dict(keep_vars=True).items()} == before
    assert equal(leaves(pipe(**batch)), expected)
    if TORCH >= (2, 13):  # stage 0 of the pipe holds a head that it never uses
        assert "lm_head.weight" in pipe.get_stage_module(0).state_dict()
    assert "lm_head.weight" not in part.stages[0].state_dict()
    assert sum("wte" in key for key in part.stages[0].state_dict()) == 1


@pytest.mark.parametrize("keep_original_order", [False, True])
def test_split_module(keep_original_order):
    model = Skips()
    x, mask = torch.rand(3, 4), torch.ones(2)
    expected = run(model, model, x, 1, mask)
    split = split_skips(model, keep_original_order=keep_original_order)
    assert is_split_graph(split)
    part = partition_graph(split, model)
    assert part.input_names == ["x", "unused", "mask", "factor"]
    assert part.liveness[0] == ["x", "mask", "factor"]  # nobody takes "unused"
    found = run(lambda *args: run_local(part, *args), model, x, 1, mask)
    assert same(found, expected)
    output = run_local(part, x, 1)
    assert list(output) == ["late", "same", "size", "mask", "number"]
    assert (output["size"], output["mask"], output["number"]) == (3, None, 3)
    assert output["late"][0] is output["same"]
    assert torch.equal(run_local(part, x, 1, factor=5)["same"], model(x, 1, factor=5)["same"])
    assert [sorted(p) for p in part.tie_weights.values()] == [[("scale", 0), ("scale", 2)]]
    states = [stage.state_dict() for stage in part.stages]
    assert "shift" not in states[1]
    assert equal(
        *(list(s.values()) for s in (part.state_dict_to_model(states), model.state_dict()))
    )


def test_stages_that_come_out_of_order():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, y):
            left = self.a(x)
            right = self.b(y)
            return self.c(left + right), left

    model = TwoTowers()
    stage_of = {"a": 0, "b": 1}
    split = split_module(fx.symbolic_trace(model), None, lambda node: stage_of.get(node.name, 2))
    called = [node.target for node in split.graph.nodes if node.op == "call_module"]
    assert called == ["submod_1", "submod_0", "submod_2"]
    part = partition_graph(split, model)
    assert part.liveness == [["x", "y"], ["y", "submod_0"], ["submod_0", "submod_1"]]
    batch = torch.rand(3, 2), torch.rand(3, 2)
    expected = run(model, model, *batch)
    assert same(run(lambda *args: run_local(part, *args), model, *batch), expected)


def test_stages_that_are_modules_and_arguments_that_are_structures():
    class Add(nn.Module):
        def forward(self, items, *, factor, by=None):
            return items["left"] * factor + items["right"][0], by

    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    a = graph.call_module("first", ({"left": x, "right": [y]},), {"factor": 2})
    b = graph.call_module("second", ({"left": x, "right": [x]},), {"factor": 3, "by": y})
    item = [graph.call_function(operator.getitem, (value, 0)) for value in (a, b)]
    graph.output((item[1], {"first": item[0], "y": y}))
    split = fx.GraphModule({"first": Add(), "second": Add()}, graph)
    part = partition_graph(split, order=["first", "second"])
    assert part.liveness == [["x", "y"], ["x", "y", "submod_0.0"]]
    one, two = torch.ones(2), torch.ones(2) * 7
    assert str(run_local(part, one, two)) == str(split(one, two))


def test_values_and_parameters_that_a_stage_never_uses():
    """An ignored argument does not cross; a nested graph's spare weight is gone."""
    inner, outer, top = fx.Graph(), fx.Graph(), fx.Graph()
    inner.output(inner.call_module("used", (inner.placeholder("x"),)))
    nested = fx.GraphModule({"used": nn.Linear(2, 2)}, inner)
    nested.spare = nn.Linear(2, 2)
    nested.register_buffer("noise", torch.ones(2))
    x, _ = outer.placeholder("x"), outer.placeholder("ignored")
    outer.output(outer.call_module("nested", (x,)))
    stage = fx.GraphModule({"nested": nested}, outer)
    x, y = top.placeholder("x"), top.placeholder("y")
    first = top.call_module("submod_0", (x, y))
    top.output(top.call_module("submod_1", (first, y)))
    part = partition_graph(fx.GraphModule({"submod_0": stage, "submod_1": stage}, top))
    assert part.liveness == [["x"], ["submod_0"]]
    assert sorted(part.stages[0].state_dict()) == ["nested.used.bias", "nested.used.weight"]
    assert "nested.spare.weight" in stage.state_dict()
    assert equal([run_local(part, torch.ones(2), 0)], [stage(stage(torch.ones(2), 0), 0)])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_partition_can_be_copied(copied):
    model = Skips()
    part = copied(partition_graph(split_skips(model), model))
    x = torch.rand(3, 4)
    assert equal(leaves(run_local(part, x, 1)), leaves(model(x, 1)))


def graph_that(change):
    graph = fx.Graph()
    x = graph.placeholder("x")
    a = graph.call_module("submod_0", (x,))
    result = change(graph, a)
    graph.output(result)
    return fx.GraphModule({"submod_0": nn.Identity(), "submod_1": nn.Identity()}, graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph, a: graph.call_function(torch.add, (a, 1)), r"move .*add.* into a stage"),
        (lambda graph, a: graph.call_module("submod_0", (a,)), "submod_0 is called twice"),
    ],
)
def test_graphs_that_are_refused(change, message):
    split = graph_that(change)
    with pytest.raises(ValueError, match=message):
        partition_graph(split)


def test_an_order_against_the_flow_is_refused():
    split = graph_that(lambda graph, a: graph.call_module("submod_1", (a,)))
    assert len(partition_graph(split).stages) == 2
    message = r"stage 0 \(submod_1\) takes the result of submod_0, which is stage 1"
    with pytest.raises(ValueError, match=message):
        partition_graph(split, order=["submod_1", "submod_0"])
    with pytest.raises(ValueError, match="order must name every stage once"):
        partition_graph(split, order=["submod_0"])


def test_other_modules_are_refused():
    assert not is_split_graph(nn.Linear(2, 2))
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert not is_split_graph(fx.symbolic_trace(layers))  # calls modules, but nobody split it
    with pytest.raises(TypeError, match="a Linear is no split graph"):
        partition_graph(nn.Linear(2, 2))
