"""Refuses cuts across memory that a later stage writes into."""

from __future__ import annotations

from ..errors import PartitionError
from ..tape.arguments import tensors_of
from ..tape.tape import Fact, Tape
from .plan import Plan, called

__all__ = ["check_writes"]


def check_writes(tape: Tape, plan: Plan) -> None:
    """Raise PartitionError, with all reasons, for writes that other stages would miss.

    Two values over one memory are two tensors after a cut. A buffer that a stage writes to, and a
    module that writes its buffers, belong to one stage.
    """
    problems = [*_shared_memory(tape, plan), *_state(tape, plan)]
    if problems:
        raise PartitionError("; ".join(dict.fromkeys(problems)))


def _shared_memory(tape: Tape, plan: Plan) -> list[str]:
    problems = []
    before: set[int] = set(tape.inputs.values())
    differentiable: set[int] = set()  # memory that got a gradient by a write in a stage before
    for k, piece in enumerate(plan.pieces):
        crossing = {key for taken in plan.takes[k:] for key in taken if key in before}
        for step in piece:
            for key in step.writes if k else ():
                fact = tape.facts[key]
                if not isinstance(fact, Fact):
                    continue
                sharing = {other for other in crossing if tape.memories([other]) == {fact.memory}}
                if sharing and (
                    sharing != {key} or fact.requires_grad or fact.memory in differentiable
                ):
                    problems.append(
                        f"{step.place} writes ({step.label}) into {tape.names[key]}, whose memory "
                        f"crosses a cut before; put the cut elsewhere, or write into a copy"
                    )
        before |= {key for step in piece for key in step.makes}
        facts = [tape.facts[k] for step in piece if step.writes_gradient for k in step.writes]
        differentiable |= {fact.memory for fact in facts if isinstance(fact, Fact)}
    return problems


def _state(tape: Tape, plan: Plan) -> list[str]:
    users: dict[str, set[int]] = {}
    places: dict[str, str] = {}
    keepers: dict[str, list[str]] = {}
    for name, leaves in tape.keepers.items():
        for leaf in leaves:
            keepers.setdefault(leaf, []).append(name)
    for k, piece in enumerate(plan.pieces):
        for step in piece:
            used = [*tensors_of(step.args), *step.writes_held]
            for target in called(step):
                parts = target.split(".")
                above = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
                used += [target, *(name for leaf in above for name in keepers.get(leaf, ()))]
            for name in used:
                users.setdefault(name, set()).add(k)
            places.update(dict.fromkeys(step.writes_held, step.place))
    return [
        f"{places[name]} writes into {name}, which stages {sorted(users[name])} use; each would "
        f"have a copy of its own, so put the cut where one stage has all of it"
        for name in sorted(places)
        if len(users[name]) > 1
    ]
