"""Random stages on random ranks: each stage gets its values, and no rank gets one twice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipecodec.stages.rank_liveness import Link, RankLiveness, rank_liveness
from pipecodec.stages.stage import Stage

from .random_stages import Call, RandomStages, random_stages

EXAMPLES = settings(max_examples=150, deadline=None)

OWNERS = st.lists(st.integers(0, 2), min_size=8, max_size=8)
"""The rank of each stage: loops, V placements and all others are among them."""


def plan_of(model: RandomStages, owners: Sequence[int]) -> RankLiveness:
    flow = model.flow()
    count = len(model.stages)
    return rank_liveness(flow.liveness, flow.stage_id_2_arg_names, owners[:count], model.outputs())


def calls_by_plan(model: RandomStages, plan: RankLiveness) -> list[Call]:
    """Run each stage on copies of the values that its boundary and its link bring."""
    calls: list[Call] = []
    batch, last = model.batch(), len(model.stages) - 1
    names = model.flow().stage_id_2_arg_names
    values = [batch[name] for name in plan.liveness[0]]
    linked: dict[int, list[Any]] = {}
    for index, made in enumerate(model.stages):
        stage = Stage(plan.liveness, names, index, outputs=model.outputs()[index])
        env = dict(zip(plan.liveness[index], copy.deepcopy(values), strict=True))
        for link in plan.links:
            if link.target == index:
                link.resolve(env, dict(zip(link.names, linked[index], strict=True)))
        before = {} if index == last else plan.before(env, index)
        positional, keyword = stage.arguments(env)
        required = [arg for arg in stage.args if isinstance(arg, str)]
        given = {**dict(zip(required, positional, strict=True)), **keyword}
        output = made.call(index, given, calls)
        if index < last:
            stage.name_outputs(env, output)
            plan.after(env, before, index)
            values = stage.collect(env, plan.liveness[index + 1])
            for link in plan.links:
                if link.source == index:
                    linked[link.target] = copy.deepcopy(stage.collect(env, link.names))
    return calls


@given(model=random_stages(declared=False), owners=OWNERS)
@EXAMPLES
def test_links_and_boundaries_are_enough(model: RandomStages, owners: list[int]) -> None:
    assert calls_by_plan(model, plan_of(model, owners)) == model.calls()


@given(model=random_stages(declared=True), owners=OWNERS, choice=st.integers(0, 99))
@EXAMPLES
def test_no_value_can_be_left_out(model: RandomStages, owners: list[int], choice: int) -> None:
    """Neither at a boundary nor from a link; a stage it was left out of fails or errs."""
    plan = plan_of(model, owners)
    places = [(k, name) for k, live in enumerate(plan.liveness) for name in live if "@" not in name]
    if places:
        index, name = places[choice % len(places)]
        fewer = [list(live) for live in plan.liveness]
        fewer[index].remove(name)
        assert_differs(model, RankLiveness(fewer, plan.links), (index, name))
    links = [(k, name) for k, link in enumerate(plan.links) for name in link.names]
    if links:
        index, name = links[choice % len(links)]
        assert_differs(model, without(plan, index, name), (plan.links[index], name))


@given(model=random_stages(declared=True), owners=OWNERS)
@EXAMPLES
def test_a_rank_gets_each_value_once(model: RandomStages, owners: list[int]) -> None:
    """A value is one of a stage, or an input, under a name; one that was written to is another."""
    plan = plan_of(model, owners)
    seen: dict[int, set[tuple[str, int]]] = {}
    made = dict.fromkeys(model.inputs, -1)
    for index, stage in enumerate(model.stages):
        rank = owners[index]
        known = seen.setdefault(rank, set())
        crossed = {(name, made[name]) for name in plan.liveness[index] if "@" not in name}
        if index == 0 or owners[index - 1] != rank:
            assert not crossed & known, (index, crossed & known)
        linked = [name for link in plan.links if link.target == index for name in link.names]
        assert {(name, made[name]) for name in linked} <= known
        assert not set(linked) & set(plan.liveness[index])
        made.update(dict.fromkeys(stage.gives, index))
        known |= crossed | {(name, index) for name in stage.gives}


def without(plan: RankLiveness, index: int, name: str) -> RankLiveness:
    """Return the plan without a value of a link, and the entries that stand for it."""
    link = plan.links[index]
    links = list(plan.links)
    links[index] = Link(link.source, link.target, tuple(n for n in link.names if n != name))
    between = range(link.source + 1, link.target + 1)
    liveness = [
        [each for each in live if k not in between or each != link.entry(name)]
        for k, live in enumerate(plan.liveness)
    ]
    return RankLiveness(liveness, links)


def assert_differs(model: RandomStages, plan: RankLiveness, left_out: object) -> None:
    try:
        calls = calls_by_plan(model, plan)
    except ValueError:
        return
    assert calls != model.calls(), left_out
