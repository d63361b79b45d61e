"""Tells from the inputs alone which observation a batch is like."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape.arguments import Const, Value, tensors_of
from ..tape.observe import size_of
from ..tape.tape import Out, Step, Tape, step_of
from .plan import Plan, is_random, live_steps, missing

__all__ = ["Question", "question", "without_asked"]


@dataclass(frozen=True)
class Question:
    """Guards that inputs alone decide, with the steps before them, and the inputs they take.

    ``answered`` has the guards (by ``id``) that need not be asked again. The others take the size
    of an input for that of another value, as it was in two observations; the stage asks those too.
    """

    steps: list[Step]
    takes: list[int]
    answered: set[int]


def question(tape: Tape) -> Question:
    """Return the guards of a tape that its inputs alone decide."""
    good, assumed, kept = set(tape.inputs.values()), set[int](), list[Step]()
    answered = set()
    of_inputs = tape.input_memories
    for step in tape.steps:
        written = tape.memories(step.writes)
        own = not (step.writes_held or written & of_inputs)  # it writes into fresh memory alone
        simple = own and not (step.is_module or is_random(step) or tensors_of(step.args))
        if simple and good.issuperset(step.uses):
            good.update(step.makes)
            kept.append(step)
            if assumed & set(step.uses):
                assumed.update(step.makes)
                assumed.update(step.writes)
            elif step.expect is not None:
                answered.add(id(step))
            continue
        if written:  # by a step that cannot be asked for
            good = {key for key in good if not tape.memories([key]) & written}
        for key in step.makes:
            if key in tape.same_size:
                kept.append(_size_of_input(tape, key))
                good.add(key)
                assumed.add(key)
    steps = live_steps(kept, ())
    return Question(steps, missing(steps), answered)


def _size_of_input(tape: Tape, key: int) -> Step:
    source, dimension = tape.same_size[key]
    step = step_of(size_of, [Value(source), Const(dimension)])
    step.outs.append(Out("result", (), key))
    step.place = tape.makers[key]
    return step


def without_asked(plan: Plan, asked: Question) -> Plan:
    """Return a plan whose stages do not ask again."""
    pieces = [[step for step in piece if id(step) not in asked.answered] for piece in plan.pieces]
    if len(pieces) == 1:
        return Plan(pieces, plan.takes, plan.gives)
    pieces[0] = live_steps(pieces[0], plan.gives[0])
    return Plan(pieces, [missing(pieces[0]), *plan.takes[1:]], plan.gives)
