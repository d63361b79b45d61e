"""Lets each stage compute masks, positions and rotary tables for itself, instead of sending them.

They are functions of the model's inputs, without gradients. Their inputs cross then: a mask of
sequence length squared becomes one of sequence length.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..tape.arguments import Argument, Const, Device, Node, Value, keys_of, tensors_of
from ..tape.tape import Fact, Step, Tape
from .plan import Plan, changed_keys, is_random, live_steps, plan_of

__all__ = ["recompute"]


def recompute(tape: Tape, plan: Plan) -> Plan:
    """Return `plan` with pure steps copied into each stage that takes their values.

    Numbers that are sizes of other values cross, in 8 bytes each.
    """
    everything = [step for piece in plan.pieces for step in piece]
    copied = _copyable(tape, everything)
    result = keys_of(tape.result)
    last = len(plan.pieces) - 1
    pieces = [plan.pieces[0]]
    for k, piece in enumerate(plan.pieces[1:], 1):
        made = {key for step in piece for key in step.makes}
        added: dict[int, Step] = {}
        todo = [key for step in piece for key in step.uses] + (result if k == last else [])
        while todo:
            step = copied.get(todo.pop())
            if step is not None and id(step) not in added and not made & set(step.makes):
                added[id(step)] = step
                todo += step.uses
        first = sorted(
            added.values(), key=lambda step: step.makes[0]
        )  # values are numbered in order
        pieces.append([*first, *piece])
    for k in reversed(range(len(pieces))):
        wanted = set(result) if k == last else set()
        wanted.update(key for taken in plan_of(tape, pieces).takes[k + 1 :] for key in taken)
        pieces[k] = live_steps(pieces[k], wanted)
    return plan_of(tape, pieces)


def _copyable(tape: Tape, steps: list[Step]) -> dict[int, Step]:
    """Return, by the values that they make, the steps that any stage can do."""
    changed = changed_keys(steps)
    known = set(tape.inputs.values())
    known |= {k for k, fact in tape.facts.items() if isinstance(fact, (int, float))}
    copied: dict[int, Step] = {}
    for step in steps:
        pure = _hollowed(tape, step) if step.pure else step
        facts = [tape.facts[key] for key in step.makes]
        if (
            step.makes
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
    args = _without(tape, step.args, set(step.hollow))
    return replace(step, args=args) if isinstance(args, Node) else step


def _without(tape: Tape, template: Argument, hollow: set[int]) -> Argument:
    if isinstance(template, Node):
        children = [_without(tape, child, hollow) for child in template.children]
        return replace(template, children=children)
    if isinstance(template, Value) and template.key in hollow:
        fact = tape.facts[template.key]
        parts: list[Argument] = [Const((0,) * len(fact.shape)), Const(fact.dtype), Device()]
        return Node(_empty, parts)
    return template


def _empty(parts: list[object]) -> torch.Tensor:
    size, dtype, device = parts
    return torch.empty(size, dtype=dtype, device=device)  # type: ignore[call-overload, no-any-return]
