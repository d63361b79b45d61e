"""Lets each stage compute masks, positions and rotary tables for itself, instead of sending them.

They are functions of the model's inputs, without gradients. Their inputs cross then: a mask of
sequence length squared becomes one of sequence length.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Set
from dataclasses import replace

import torch

from ..tape.arguments import Argument, Const, Device, Node, Value, keys_of, tensors_of
from ..tape.tape import Fact, Step, Tape, step_of
from .plan import Plan, changed_keys, is_random, live_steps, plan_of

__all__ = ["recompute"]


def recompute(tape: Tape, plan: Plan) -> Plan:
    """Return `plan` with pure steps copied into each stage that takes their values.

    Numbers cross, in 8 bytes each: no tensor is sent for its size alone. Sizes that were one size
    of an input in two observations cross once, and the stages that make them compare them.
    """
    everything = [step for piece in plan.pieces for step in piece]
    copied = _copyable(tape, everything)
    sizes = _Sizes(tape, everything)
    result = keys_of(tape.result)
    last = len(plan.pieces) - 1
    pieces = [list(plan.pieces[0])]
    for k, original in enumerate(plan.pieces[1:], 1):
        made = {key for step in original for key in step.makes}
        piece = [sizes.one_of_each(step, made) for step in original]
        added: dict[int, Step] = {}
        todo = [key for step in piece for key in step.uses] + (result if k == last else [])
        while todo:
            step = copied.get(todo.pop())
            if step is not None and id(step) not in added and not made & set(step.makes):
                added[id(step)] = step
                todo += step.uses
        # Values are numbered in order.
        first = sorted(added.values(), key=lambda step: step.makes[0])
        pieces.append([*(sizes.one_of_each(step, made) for step in first), *piece])
    for piece in pieces:
        piece += sizes.guards(piece)
    for k in reversed(range(len(pieces))):
        wanted = set(result) if k == last else set()
        wanted.update(key for taken in plan_of(tape, pieces).takes[k + 1 :] for key in taken)
        pieces[k] = live_steps(pieces[k], wanted)
    return plan_of(tape, pieces)


class _Sizes:
    """Sizes that are one in two observations, and the first of each."""

    def __init__(self, tape: Tape, steps: list[Step]) -> None:
        firsts: dict[tuple[int, int], int] = {}
        self.first: dict[int, int] = {}
        self.replaced: set[int] = set()
        for key in (key for step in steps for key in step.makes):
            if key in tape.same_size:
                self.first[key] = firsts.setdefault(tape.same_size[key], key)

    def one_of_each(self, step: Step, made: Set[int]) -> Step:
        """Return a step that takes the first of equal sizes, unless its stage made another."""
        others = {
            key: self.first[key]
            for key in step.uses
            if self.first.get(key, key) != key and key not in made
        }
        if not others or step.expect is not None:
            return step
        self.replaced.update(others)
        args = _mapped(step.args, lambda value: Value(others.get(value.key, value.key)))
        return replace(step, args=args)  # type: ignore[arg-type]

    def guards(self, piece: list[Step]) -> list[Step]:
        """Return guards for the sizes of this piece for which another was taken."""
        guards = []
        for step in piece:
            for key in step.makes:
                if key in self.replaced:
                    guard = step_of(operator.eq, [Value(key), Value(self.first[key])])
                    guard.expect, guard.place = (True,), step.place
                    guards.append(guard)
        return guards


def _copyable(tape: Tape, steps: list[Step]) -> dict[int, Step]:
    """Return, by the values that they make, the steps that any stage can do."""
    changed = changed_keys(tape, steps)
    known = set(tape.inputs.values())
    known |= {k for k, fact in tape.facts.items() if isinstance(fact, (int, float))}
    copied: dict[int, Step] = {}
    for step in steps:
        pure = _hollowed(tape, step) if step.pure else step
        facts = [tape.facts[key] for key in step.makes]
        if (
            any(isinstance(fact, Fact) for fact in facts)
            and step.expect is None
            and not (step.mutates or is_random(step) or (step.is_module and not step.pure))
            and known.issuperset(pure.uses)
            and not changed & {*pure.uses, *step.makes}
            and not tensors_of(step.args)
            and not any(isinstance(fact, Fact) and fact.requires_grad for fact in facts)
        ):
            known.update(step.makes)
            copied.update(dict.fromkeys(step.makes, pure))
    return copied


def _hollowed(tape: Tape, step: Step) -> Step:
    """Return a call in which empty tensors stand for arguments of which only the dtype counts."""
    if not step.hollow:
        return step

    def empty(value: Value) -> Argument:
        if value.key not in step.hollow:
            return value
        fact = tape.facts[value.key]
        parts: list[Argument] = [Const((0,) * len(fact.shape)), Const(fact.dtype), Device()]
        return Node(_empty, parts)

    return replace(step, args=_mapped(step.args, empty))  # type: ignore[arg-type]


def _mapped(argument: Argument, function: Callable[[Value], Argument]) -> Argument:
    if isinstance(argument, Node):
        children = [_mapped(child, function) for child in argument.children]
        return replace(argument, children=children)
    return function(argument) if isinstance(argument, Value) else argument


def _empty(parts: list[object]) -> torch.Tensor:
    size, dtype, device = parts
    return torch.empty(size, dtype=dtype, device=device)  # type: ignore[call-overload, no-any-return]
