"""Random stages: the live values are enough to run each stage, and none of them can be left out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecodec.stages.local_inputs import LocalInputs, find_local_inputs
from pipecodec.stages.stage import Stage

from .random_stages import Call, RandomStages, random_stages

EXAMPLES = settings(max_examples=100, deadline=None)


def calls_by_liveness(
    model: RandomStages, local: LocalInputs, liveness: Sequence[Sequence[str]]
) -> list[Call]:
    """Run each stage on copies of the values that ``liveness`` lets enter it, and no others.

    The last one takes the inputs of ``local`` from a batch of its own.
    """
    calls: list[Call] = []
    batch, last = model.batch(), len(model.stages) - 1
    names = model.flow().stage_id_2_arg_names
    values = [batch[name] for name in liveness[0]]
    for index, made in enumerate(model.stages):
        stage = Stage(liveness, names, index, outputs=model.outputs()[index])
        env = dict(zip(liveness[index], copy.deepcopy(values), strict=True))
        if index == last:
            local.resolve(env, model.batch())
        before = {} if index == last else local.before(env, index)
        positional, keyword = stage.arguments(env)
        required = [arg for arg in stage.args if isinstance(arg, str)]
        given = {**dict(zip(required, positional, strict=True)), **keyword}
        stage_output = made.call(index, given, calls)
        if index < last:
            stage.name_outputs(env, stage_output)
            local.after(env, before, liveness[index + 1])
            values = stage.collect(env, liveness[index + 1])
    return calls


def crossing(model: RandomStages, local: bool) -> LocalInputs:
    flow = model.flow()
    if not local:
        return LocalInputs.none(flow.liveness)
    return find_local_inputs(flow.liveness, flow.stage_id_2_arg_names, model.outputs())


@pytest.mark.parametrize("local", [False, True])
@given(model=random_stages(declared=False))
@EXAMPLES
def test_live_values_are_enough(local: bool, model: RandomStages) -> None:
    found = crossing(model, local)
    assert calls_by_liveness(model, found, found.liveness) == model.calls()


@pytest.mark.parametrize("local", [False, True])
@given(model=random_stages(declared=True), choice=st.integers(0, 99))
@EXAMPLES
def test_no_live_value_can_be_left_out(local: bool, model: RandomStages, choice: int) -> None:
    found = crossing(model, local)
    names = [(k, name) for k, live in enumerate(found.liveness) for name in live if "@" not in name]
    if not names:
        return
    index, name = names[choice % len(names)]
    fewer = [list(live) for live in found.liveness]
    fewer[index].remove(name)
    try:
        calls = calls_by_liveness(model, found, fewer)
    except ValueError:
        return
    assert calls != model.calls(), (index, name)


@given(model=random_stages(declared=False), choice=st.integers(0, 99))
@EXAMPLES
def test_an_entry_tells_of_a_change(model: RandomStages, choice: int) -> None:
    """An entry may be left out only where no stage changed the input that it stands for."""
    found = crossing(model, local=True)
    if not found.marked or len(model.stages) < 2:
        return
    name = found.marked[choice % len(found.marked)]
    fewer = [[each for each in live if each != f"{name}@batch"] for live in found.liveness]
    untold: Any = calls_by_liveness(model, found, fewer)
    batch = model.batch()[name]
    unchanged = model.calls()[-1].get(name) == repr(batch)
    assert (untold == model.calls()) == unchanged
