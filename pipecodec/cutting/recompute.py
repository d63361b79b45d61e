"""Lets each stage compute masks, positions and rotary tables for itself, instead of sending them.

They are functions of the model's inputs, without gradients. Their inputs cross then: a mask of
sequence length squared becomes one of sequence length.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..tape.tape import Fact, Out, Step, Tape, step_of
from ..tape.templates import Const, Device, Node, Template, Value, keys_of, tensors_of
from .plan import Plan, changed_keys, is_random, live_steps, plan_of

__all__ = ["recompute"]


def recompute(tape: Tape, plan: Plan) -> Plan:
    """Return `plan` with pure steps copied into each stage that takes their values.

    A size that equals one size of an input in every observation is that size, under a guard on the
    first stage that has it; other numbers cross.
    """
    pure = _pure_keys(tape, [step for piece in plan.pieces for step in piece])
    maker = {key: step for piece in plan.pieces for step in piece for key in step.makes}
    order = {id(step): i for i, step in enumerate(tape.steps)}
    result = keys_of(tape.result)
    last = len(plan.pieces) - 1
    pieces = []
    for k, piece in enumerate(plan.pieces):
        steps, sizes = list(piece), dict[int, Step]()
        have = {id(step) for step in steps}
        todo = [key for step in steps for key in step.uses] + (result if k == last else [])
        while todo and k:
            key = todo.pop()
            if key in tape.same_size and maker.get(key) and id(maker[key]) not in have:
                if key not in sizes:
                    sizes[key] = _size_of_input(tape, key)
                    todo += sizes[key].uses
            elif key in pure and key in maker and id(maker[key]) not in have:
                have.add(id(maker[key]))
                steps.append(maker[key])
                todo += [use for use in _hollowed(tape, maker[key]).uses]
        steps.sort(key=lambda step: order[id(step)])
        kept = {id(step) for step in piece}
        steps = [step if id(step) in kept else _hollowed(tape, step) for step in steps]
        pieces.append([*sizes.values(), *steps])
    _add_size_guards(tape, pieces)
    for k in reversed(range(len(pieces))):
        wanted = set(result) if k == last else set()
        for taken in plan_of(tape, pieces).takes[k + 1 :]:
            wanted.update(taken)
        pieces[k] = live_steps(pieces[k], wanted)
    return plan_of(tape, pieces)


def _pure_keys(tape: Tape, steps: list[Step]) -> set[int]:
    pure, changed = set(tape.inputs.values()) | set(tape.same_size), changed_keys(steps)
    for step in steps:
        uses = _hollowed(tape, step).uses if step.pure else step.uses
        facts = [tape.facts[key] for key in step.makes]
        if (
            not (step.mutates or (step.is_module and not step.pure) or is_random(step))
            and all(key in pure and key not in changed for key in uses)
            and not tensors_of(step.args)
            and not changed & set(step.makes)
            and not any(isinstance(fact, Fact) and fact.requires_grad for fact in facts)
            and (step.expect is None)
        ):
            pure.update(step.makes)
    return pure


def _size_of_input(tape: Tape, key: int) -> Step:
    source, dimension = tape.same_size[key]
    step = step_of(take_size, [Value(source), Const(dimension)])
    step.outs.append(Out("result", (), key))
    step.place = tape.makers[key]
    return step


def take_size(tensor: torch.Tensor, dimension: int) -> int:
    """Return one size of an input."""
    return tensor.shape[dimension]


def is_size(tensor: torch.Tensor, dimension: int, size: int) -> bool:
    """Whether a size is that of an input, as it was when the model was observed."""
    return tensor.shape[dimension] == size


def _add_size_guards(tape: Tape, pieces: list[list[Step]]) -> None:
    taken = {s.outs[0].key for piece in pieces for s in piece if s.target is take_size}
    for piece in pieces:
        for key in sorted(taken):
            if any(key in step.makes and step.target is not take_size for step in piece):
                source, dimension = tape.same_size[key]
                guard = step_of(is_size, [Value(source), Const(dimension), Value(key)])
                guard.expect, guard.place = (True,), tape.makers[key]
                piece.append(guard)


def _hollowed(tape: Tape, step: Step) -> Step:
    """Return a call in which empty tensors stand for arguments of which only the dtype counts."""
    if not step.hollow:
        return step
    args = _without(tape, step.args, set(step.hollow))
    return replace(step, args=args) if isinstance(args, Node) else step


def _without(tape: Tape, template: Template, hollow: set[int]) -> Template:
    if isinstance(template, Node):
        children = [_without(tape, child, hollow) for child in template.children]
        return replace(template, children=children)
    if isinstance(template, Value) and template.key in hollow:
        fact = tape.facts[template.key]
        parts: list[Template] = [Const((0,) * len(fact.shape)), Const(fact.dtype), Device()]
        return Node(_empty, parts)
    return template


def _empty(parts: list[object]) -> torch.Tensor:
    size, dtype, device = parts
    return torch.empty(size, dtype=dtype, device=device)  # type: ignore[call-overload, no-any-return]
