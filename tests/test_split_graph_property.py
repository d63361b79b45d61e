"""Random split graphs: the live values are enough to run each stage, and none can be left out."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from pipecodec.stages.liveness import Liveness, analyze_graph
from pipecodec.stages.local_inputs import LocalInputs, find_local_inputs
from pipecodec.stages.stage import Stage

from .random_stages import digest


class Body(nn.Module):
    """Returns a value and a pair of values, and notes its arguments; it may write into the first.

    An input of the model is a pair too.
    """

    def __init__(self, index: int, writes: bool) -> None:
        super().__init__()
        self.index, self.writes = index, writes
        self.seen = ""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.seen = repr((args, sorted(kwargs.items())))
        if self.writes:
            _first_list(args).append(f"written by {self.index}")
        one, *pair = (digest(self.index, item, self.seen) for item in range(3))
        return one, tuple(pair)


def _first_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else _first_list(value[0])


@st.composite
def split_graphs(draw: st.DrawFn, *, writing: bool) -> fx.GraphModule:
    """Draw a graph in which each stage takes at least one result of the stage before it."""
    graph, root = fx.Graph(), {}
    known = [graph.placeholder(f"x{i}") for i in range(draw(st.integers(1, 3)))]
    known += [graph.call_function(operator.getitem, (node, 0)) for node in known]
    inputs = made = list(known)
    for index in range(draw(st.integers(1, 5))):
        others = st.lists(st.sampled_from(inputs) | st.sampled_from(list(known)), max_size=3)
        taken = [draw(st.sampled_from(made)), *draw(others)]
        by_name = draw(st.integers(0, len(taken) - 1))
        kwargs = {f"p{i}": node for i, node in enumerate(taken[len(taken) - by_name :])}
        name = f"submod_{index}"
        root[name] = Body(index, writing and draw(st.booleans()))
        whole = graph.call_module(name, tuple(taken[: len(taken) - by_name]), kwargs)
        pair = graph.call_function(operator.getitem, (whole, 1))
        items = [(whole, 0), (pair, 0), (pair, 1)]
        made = [whole, pair, *(graph.call_function(operator.getitem, item) for item in items)]
        known += made
    graph.output(whole)
    return fx.GraphModule(root, graph)


def bodies(gm: fx.GraphModule) -> list[Body]:
    return [module for module in gm.children() if isinstance(module, Body)]


def batch(gm: fx.GraphModule) -> dict[str, Any]:
    names = [node.target for node in gm.graph.nodes if node.op == "placeholder"]
    return {str(name): (digest(name, 0), digest(name, 1)) for name in names}


def whole_calls(gm: fx.GraphModule) -> list[str]:
    gm(*batch(gm).values())
    return [body.seen for body in bodies(gm)]


def calls_by_liveness(
    gm: fx.GraphModule, flow: Liveness, local: LocalInputs, liveness: Sequence[Sequence[str]]
) -> list[str]:
    inputs, stages = batch(gm), bodies(gm)
    env: dict[str, Any] = {**inputs, **{f"{k}.0": value[0] for k, value in inputs.items()}}
    values = [env[name] for name in liveness[0]]
    for index, body in enumerate(stages):
        stage = Stage(liveness, flow.stage_id_2_arg_names, index)
        env = dict(zip(liveness[index], copy.deepcopy(values), strict=True))
        last = index == len(stages) - 1
        if last:
            local.resolve(env, batch(gm))
        before = {} if last else local.before(env, index)
        positional, keyword = stage.arguments(env)
        output = body(*positional, **keyword)
        if not last:
            stage.name_outputs(env, output)
            local.after(env, before, liveness[index + 1])
            values = stage.collect(env, liveness[index + 1])
    return [body.seen for body in stages]


def crossing(flow: Liveness, local: bool) -> LocalInputs:
    if not local:
        return LocalInputs.none(flow.liveness)
    return find_local_inputs(flow.liveness, flow.stage_id_2_arg_names, [None] * len(flow.liveness))


@pytest.mark.parametrize("local", [False, True])
@given(gm=split_graphs(writing=True))
@settings(max_examples=60, deadline=None)
def test_live_values_are_enough(local: bool, gm: fx.GraphModule) -> None:
    flow = analyze_graph(gm)
    found = crossing(flow, local)
    assert calls_by_liveness(gm, flow, found, found.liveness) == whole_calls(gm)


@pytest.mark.parametrize("local", [False, True])
@given(gm=split_graphs(writing=False), choice=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_live_value_can_be_left_out(local: bool, gm: fx.GraphModule, choice: int) -> None:
    flow = analyze_graph(gm)
    found = crossing(flow, local)
    names = [(k, name) for k, live in enumerate(found.liveness) for name in live if "@" not in name]
    if not names:
        return
    index, name = names[choice % len(names)]
    fewer = [list(live) for live in found.liveness]
    fewer[index].remove(name)
    try:
        calls = calls_by_liveness(gm, flow, found, fewer)
    except ValueError:
        return
    assert calls != whole_calls(gm), (index, name)
