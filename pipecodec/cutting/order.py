"""Brings independent calls into an order that does not depend on when they were made.

A model may loop over a set of names, whose order differs between processes, and call a rotary
embedding for each. The ranks of one training have to cut alike, so such calls are sorted by their
first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..tape.arguments import Argument, Node, Value, keys_of, tensors_of
from ..tape.tape import Fact, Step, Tape
from .plan import changed_keys, is_random

__all__ = ["sort_independent"]


def sort_independent(tape: Tape) -> None:
    """Sort neighbouring independent steps by their first use, and number all values anew.

    An independent step computes values without gradients from its arguments alone. All other steps
    stay where they are, and no step passes one of them: a guard still comes before the steps that
    rely on it, and random numbers are drawn in the model's order.
    """
    independent = _independent(tape)
    rank = _by_first_use(tape, independent)
    ordered, run = list[Step](), list[Step]()
    for step in [*tape.steps, None]:
        if step is not None and id(step) in independent:
            run.append(step)
            continue
        ordered += sorted(run, key=lambda each: rank[id(each)])
        ordered += [] if step is None else [step]
        run = []
    tape.steps = ordered
    _number_anew(tape)


def _independent(tape: Tape) -> set[int]:
    """Return the ``id`` of each step that may change places with its neighbours."""
    changed = changed_keys(tape, tape.steps)
    return {
        id(step)
        for step in tape.steps
        if step.makes
        and step.expect is None
        and not (step.mutates or is_random(step) or (step.is_module and not step.pure))
        and not changed & {*step.uses, *step.makes}
        and not tensors_of(step.args)
        and not any(_has_gradient(tape, key) for key in step.makes)
    }


def _has_gradient(tape: Tape, key: int) -> bool:
    fact = tape.facts[key]
    return isinstance(fact, Fact) and fact.requires_grad


def _by_first_use(tape: Tape, independent: set[int]) -> dict[int, int]:
    """Return by ``id`` the position of each step if it were made when it is first needed."""
    makers = {key: step for step in tape.steps if id(step) in independent for key in step.makes}
    rank: dict[int, int] = {}

    def need(keys: Sequence[int]) -> None:
        todo = [(key, False) for key in reversed(keys)]
        while todo:
            key, ready = todo.pop()
            step = makers.get(key)
            if step is None or id(step) in rank:
                continue
            if ready:
                rank[id(step)] = len(rank)
            else:
                todo.append((key, True))
                todo += [(each, False) for each in reversed(step.uses)]

    for step in tape.steps:
        if id(step) not in independent:
            need(step.uses)
    need(keys_of(tape.result))
    for step in tape.steps:
        rank.setdefault(id(step), len(rank))  # nobody needs it
    return rank


def _number_anew(tape: Tape) -> None:
    """Number the values in the order in which the steps give them."""
    made = (key for step in tape.steps for key in step.makes)
    new = _numbers([*tape.inputs.values(), *made, *tape.names])
    for step in tape.steps:
        step.args = _with(step.args, new)  # type: ignore[assignment]
        step.outs = [out._replace(key=new[out.key]) for out in step.outs]
        step.writes = tuple(new[key] for key in step.writes)
        step.hollow = tuple(new[key] for key in step.hollow)
    tape.result = _with(tape.result, new)
    tape.inputs = {name: new[key] for name, key in tape.inputs.items()}
    tape.names = {new[key]: name for key, name in tape.names.items()}
    tape.facts = {new[key]: fact for key, fact in tape.facts.items()}
    tape.makers = {new[key]: maker for key, maker in tape.makers.items()}
    tape.varied = {new[key] for key in tape.varied}
    tape.same_size = {new[key]: (new[of], n) for key, (of, n) in tape.same_size.items()}


def _numbers(keys: Iterable[int]) -> dict[int, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}


def _with(argument: Argument, new: dict[int, int]) -> Argument:
    if isinstance(argument, Node):
        return replace(argument, children=[_with(child, new) for child in argument.children])
    return Value(new[argument.key]) if isinstance(argument, Value) else argument
