"""Says how a model was cut: the values that cross, their makers, and a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from ..stages.cut import Crossing
from ..stages.partition import Partition
from ..tape.tape import Fact, Tape
from .assemble import value_names
from .plan import Plan

__all__ = ["alike", "crossing", "crossing_bytes", "fingerprint", "makers"]


def crossing(tape: Tape, plan: Plan) -> list[dict[str, Crossing]]:
    """Return for each boundary the values that cross it, by name."""
    names = value_names(tape, plan)
    return [{names[key]: _crossed(tape, key) for key in keys} for keys in plan.crossing]


def _crossed(tape: Tape, key: int) -> Crossing:
    fact = tape.facts[key]
    if isinstance(fact, Fact):
        return Crossing(fact.dtype, fact.shape, fact.nbytes, fact.requires_grad)
    if fact is not None:
        return Crossing(None, (), 8, False)
    items = [item for item in map(tape.facts.get, _items(tape, key)) if isinstance(item, Fact)]
    nbytes = sum(item.nbytes for item in items)
    return Crossing(None, (), nbytes, any(item.requires_grad for item in items))


def _items(tape: Tape, key: int) -> list[int]:
    """Return the values that a container holds which a step gave as a whole."""
    for step in tape.steps:
        for whole in step.outs:
            if whole.key == key:
                depth = len(whole.path)
                return [
                    out.key
                    for out in step.outs
                    if out.where == whole.where
                    and len(out.path) > depth
                    and out.path[:depth] == whole.path
                ]
    return []


def crossing_bytes(boundaries: Sequence[Mapping[str, Crossing]]) -> int:
    """Return the bytes that cross all boundaries."""
    return sum(value.nbytes for values in boundaries for value in values.values())


def alike(tapes: Sequence[Tape], plans: Sequence[Plan]) -> bool:
    """Whether the same tensors cross each boundary in every observation."""
    kinds = []
    for tape, plan in zip(tapes, plans, strict=True):
        inputs = set(tape.inputs)
        kinds.append(
            [
                {name: one[:2] for name, one in values.items() if one.dtype and name not in inputs}
                for values in crossing(tape, plan)
            ]
        )
    return all(kind == kinds[0] for kind in kinds)


def makers(tapes: Sequence[Tape], plans: Sequence[Plan]) -> dict[str, str]:
    """Return for each value that crosses its place in the model's code, and its maker."""
    found: dict[str, str] = {}
    for tape, plan in zip(tapes, plans, strict=True):
        for key, name in value_names(tape, plan).items():
            if key not in tape.inputs.values():
                found.setdefault(name, f"{tape.makers[key]} {tape.names[key]}")
    return found


def fingerprint(part: Partition) -> str:
    """Return a checksum of the stages' code, and of all names that they hold and exchange."""
    digest = hashlib.sha256()
    for stage in part.stages:
        for way in stage.code.ways:  # type: ignore[union-attr]
            digest.update(way.run.text().encode())
            if way.like is not None:
                digest.update(way.like.text().encode())
        digest.update(repr(list(stage.state_dict(keep_vars=True))).encode())
    digest.update(repr((part.liveness, part.outputs, part.input_names)).encode())
    return digest.hexdigest()
