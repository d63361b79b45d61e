"""Makes stages of tapes and their plans."""

from __future__ import annotations

import keyword
from collections.abc import Sequence

from torch import nn

from ..tape.tape import Step, Tape, step_of
from .code import Code
from .dispatch import OBSERVATION
from .plan import Plan
from .question import Question, question, without_asked
from .source import Writer
from .stage import CutStage, StageCode, Way, make_stage, place

__all__ = ["assemble", "value_names"]


def assemble(
    model: nn.Module, tapes: Sequence[Tape], plans: Sequence[Plan]
) -> tuple[list[CutStage], list[list[str] | None]]:
    """Return the stages, and the names of the values that each gives (None for the last).

    Several tapes make stages of several ways: the first stage asks which observation a batch is
    like, and its number crosses with the values.
    """
    several = len(tapes) > 1
    names = _names(tapes, plans)
    questions = [question(tape) if several else Question([], [], set(), []) for tape in tapes]
    plans = [
        without_asked(plan, asked) if several else plan
        for plan, asked in zip(plans, questions, strict=True)
    ]
    inputs = list(dict.fromkeys(name for tape in tapes for name in tape.inputs))
    count = len(plans[0].pieces)
    gives = _gives(tapes, plans, names)
    stages = []
    for k in range(count):
        ways = []
        wanted = []
        for tape, plan, known, asked in zip(tapes, plans, names, questions, strict=True):
            known = known | {key: name for name, key in tape.inputs.items()}
            takes = plan.takes[k]
            writer = Writer(tape, known)
            if k:
                writer.guard_precision(takes)
            if not several and tape.training is not None:
                writer.guard_mode(tape.training)
            given = None if k == count - 1 else plan.gives[k]
            run = writer.piece(f"stage {k}", plan.pieces[k], takes, given)
            like: Code | None = None
            asks: tuple[tuple[str, bool], ...] = ()
            if several and k == 0:
                asking = Writer(tape, known)
                like = asking.question("choice of an observation", asked.steps, asked.takes)
                names_asked = [known[key] for key in asked.takes]
                asks = tuple(zip(names_asked, asked.written, strict=True))
            names_given = [known[key] for key in given or ()]
            taken = [known[key] for key in takes]
            absent = tuple(name for name in inputs if name not in tape.inputs)
            way = Way(run, taken, names_given, tape.training, like, asks, absent)
            ways.append(way)
            wanted.append(list(dict.fromkeys([*way.takes, *(name for name, _ in asks)])))
        everywhere = [name for name in wanted[0] if all(name in each for each in wanted)]
        others = dict.fromkeys(n for each in wanted for n in each if n not in everywhere)
        required = everywhere + [OBSERVATION] * (several and k > 0)
        again = all(_repeatable(t, plan.pieces[k]) for t, plan in zip(tapes, plans, strict=True))
        code = StageCode(k, ways, required, list(others), gives[k], again)
        steps = [step for plan in plans for step in plan.pieces[k]]
        if k == count - 1:
            steps += [step_of(tuple, [tape.result]) for tape in tapes]
        steps += [step for q in questions for step in q.steps] if k == 0 else []
        stages.append(make_stage(model, code, steps))
    _place_unused(model, stages)
    outputs = [
        None if given is None else given + [OBSERVATION] * (several and k == 0)
        for k, given in enumerate(gives)
    ]
    return stages, outputs


def _names(tapes: Sequence[Tape], plans: Sequence[Plan]) -> list[dict[int, str]]:
    """Return the names of each tape's values; one name is of values of one stage."""
    maker: dict[str, int] = {}
    every = []
    for tape, plan in zip(tapes, plans, strict=True):
        names = value_names(tape, plan)
        for k, given in enumerate(plan.gives):
            for key in given:
                if maker.setdefault(names[key], k) != k:  # another tape has it of another stage
                    names[key] = f"{names[key]}_of_{k}"
                    maker[names[key]] = k
        every.append(names)
    return every


def _repeatable(tape: Tape, piece: Sequence[Step]) -> bool:
    return not any(s.writes_held or tape.memories(s.writes) & tape.input_memories for s in piece)


def _gives(
    tapes: Sequence[Tape], plans: Sequence[Plan], names: Sequence[dict[int, str]]
) -> list[list[str] | None]:
    gives: list[list[str] | None] = []
    for k in range(len(plans[0].pieces) - 1):
        given: dict[str, None] = {}
        for plan, known in zip(plans, names, strict=True):
            given.update(dict.fromkeys(known[key] for key in plan.gives[k]))
        gives.append(list(given))
    return [*gives, None]


def value_names(tape: Tape, plan: Plan) -> dict[int, str]:
    """Return a name for each value that crosses or is an input, after its maker."""
    names = {key: name for name, key in tape.inputs.items()}
    taken = {*names.values(), OBSERVATION, "self"}
    for key in sorted({key for each in plan.takes for key in each}):
        if key in names:
            continue
        base = "".join(c if c.isalnum() else "_" for c in tape.names[key]).strip("_") or "value"
        if not base.isidentifier() or keyword.iskeyword(base) or base.startswith("submod_"):
            base = f"value_{base}"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        names[key] = name
    return names


def _place_unused(model: nn.Module, stages: Sequence[nn.Module]) -> None:
    """Put all that no observed batch used where its neighbour is, so that no weight is lost."""
    for name, module in list(model.named_modules()):
        tensors = [*module._parameters.keys(), *module._buffers.keys()]
        for own in tensors:
            path = f"{name}.{own}".lstrip(".")
            if getattr(module, own) is not None and not any(_has(s, path) for s in stages):
                _place_beside(model, stages, path)


def _place_beside(model: nn.Module, stages: Sequence[nn.Module], path: str) -> None:
    """Put a tensor into the stage that has most of the module it is in, or else the first."""
    above = path.split(".")[:-1]
    while above:
        holders = [stage for stage in stages if _has(stage, ".".join(above))]
        if holders:
            place(holders[0], model, path)
            return
        above.pop()
    place(stages[0], model, path)


def _has(stage: nn.Module, path: str) -> bool:
    holder: nn.Module | None = stage
    *above, leaf = path.split(".")
    for name in above:
        holder = holder._modules.get(name) if holder is not None else None
        if holder is None:
            return False
    return holder is not None and (
        leaf in holder._modules or leaf in holder._parameters or leaf in holder._buffers
    )
