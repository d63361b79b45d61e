"""Assigns the steps of a tape to stages, and finds the values that cross."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from ..errors import PartitionError
from ..tape.arguments import keys_of, modules_of
from ..tape.structure import take
from ..tape.tape import Step, Tape

__all__ = [
    "Plan",
    "call_name",
    "called",
    "calls_of",
    "changed_keys",
    "is_random",
    "live_steps",
    "make_plan",
]

_RANDOM = (
    "rand",
    "dropout",
    "bernoulli",
    "multinomial",
    "normal",
    "poisson",
    "uniform",
    "exponential_",
    "gumbel",
    "scaled_dot_product",
    "seed",
)


@dataclass(frozen=True)
class Plan:
    """For each stage its steps, the values it takes, and those it gives to later stages."""

    pieces: list[list[Step]]
    takes: list[list[int]]
    gives: list[list[int]]

    @property
    def crossing(self) -> list[list[int]]:
        """For each boundary the values that cross it, inputs among them."""
        needed = [
            list(dict.fromkeys(key for t in self.takes[k:] for key in t)) for k in _after(self)
        ]
        made = [{key for gives in self.gives[:k] for key in gives} for k in _after(self)]
        inputs = set(self.inputs)
        return [
            [key for key in keys if key in before or key in inputs]
            for keys, before in zip(needed, made, strict=True)
        ]

    @property
    def inputs(self) -> list[int]:
        """The inputs of the model that some stage takes."""
        made = {key for piece in self.pieces for step in piece for key in step.makes}
        return list(dict.fromkeys(key for t in self.takes for key in t if key not in made))


def _after(plan: Plan) -> range:
    return range(1, len(plan.pieces))


def make_plan(tape: Tape, cuts: Sequence[Step]) -> Plan:
    """Return the plan in which a stage begins at each of the steps `cuts`.

    A step that computes little moves to the stage that uses it, if all that it takes goes there
    anyway: a slice crosses as a slice only where the whole does not. A guard moves to the first
    stage that has its values.
    """
    result = set(keys_of(tape.result))
    steps = live_steps(tape.steps, result)
    stages = _sink(tape, steps, _assign(steps, cuts), result, len(cuts))
    stages = _hoist(tape, steps, stages)
    pieces = [
        [s for s, at in zip(steps, stages, strict=True) if at == k] for k in range(len(cuts) + 1)
    ]
    return plan_of(tape, pieces)


def plan_of(tape: Tape, pieces: list[list[Step]]) -> Plan:
    """Return the plan of given pieces."""
    result = keys_of(tape.result)
    last = len(pieces) - 1
    takes = [missing(piece, result if k == last else ()) for k, piece in enumerate(pieces)]
    later = [{key for taken in takes[k + 1 :] for key in taken} for k in range(len(pieces))]
    given: set[int] = set()
    gives = []
    for piece, wanted in zip(pieces, later, strict=True):
        gives.append([key for step in piece for key in step.makes if key in wanted - given])
        given.update(gives[-1])
    return Plan(pieces, takes, gives)


def missing(piece: Iterable[Step], result: Iterable[int] = ()) -> list[int]:
    """Return the values that a piece takes from before, each once."""
    made, wanted = set[int](), dict[int, None]()
    for step in piece:
        wanted.update(dict.fromkeys(key for key in step.uses if key not in made))
        made.update(step.makes)
    wanted.update(dict.fromkeys(key for key in result if key not in made))
    return list(wanted)


def live_steps(steps: Sequence[Step], wanted: Iterable[int]) -> list[Step]:
    """Return `steps` without those whose results nobody uses and that do nothing else."""
    used, kept = set(wanted), list[Step]()
    for step in reversed(steps):
        works = step.is_module or step.mutates or step.expect is not None or is_random(step)
        if works or any(key in used for key in step.makes):
            kept.append(step)
            used.update(step.uses)
    return kept[::-1]


def is_random(step: Step) -> bool:
    """Whether a function draws random numbers, as far as its name tells."""
    return not step.is_module and any(word in step.label for word in _RANDOM)


def changed_keys(tape: Tape, steps: Iterable[Step]) -> set[int]:
    """Return the values that any step writes into, and those that share their memory."""
    written = {key for step in steps for key in step.writes}
    memories = tape.memories(written)
    return written | {key for key in tape.facts if tape.memories([key]) & memories}


def calls_of(steps: Sequence[Step], name: str) -> list[Step]:
    """Return the steps that call a module, or one inside it, first call first."""
    return [s for s in steps if any(f"{n}.".startswith(f"{name}.") for n in called(s))]


def call_name(steps: Sequence[Step], step: Step) -> str:
    """Return the name of a module's call: "layers.4", or "layers.4#1" for its second."""
    name = called(step)[0]
    nth = calls_of(steps, name).index(step)
    return f"{name}#{nth}" if nth else name


def called(step: Step) -> list[str]:
    """Return the modules that a step calls, itself or through a function that it hands them to."""
    return [str(step.target)] if step.is_module else modules_of(step.args)


def _assign(steps: Sequence[Step], cuts: Sequence[Step]) -> list[int]:
    stage, stages, left = 0, [], list(cuts)
    for step in steps:
        if left and step is left[0]:
            left.pop(0)
            stage += 1
        stages.append(stage)
    if left:
        raise PartitionError(
            f"{left[0].label!r} cannot begin a stage: it is called before another cut"
        )
    return stages


def _sink(
    tape: Tape, steps: Sequence[Step], stages: Sequence[int], result: Set[int], last: int
) -> list[int]:
    at, changed = list(stages), changed_keys(tape, steps)
    users: dict[int, list[int]] = {}  # value -> the steps that use it
    for i, step in enumerate(steps):
        for key in step.uses:
            users.setdefault(key, []).append(i)
    for i in reversed(range(len(steps))):
        step = steps[i]
        if (
            step.is_module
            or step.mutates
            or step.expect is not None
            or step.target is take
            or is_random(step)
            or changed & {*step.uses, *step.makes}
        ):
            continue
        places = [at[j] for key in step.makes for j in users.get(key, ())]
        places += [last] * bool(result & set(step.makes))
        if not places or min(places) <= at[i]:
            continue
        goes = min(places)
        if all(any(at[j] >= goes for j in users[key] if j != i) for key in step.uses):
            at[i] = goes
    return at


def _hoist(tape: Tape, steps: Sequence[Step], stages: Sequence[int]) -> list[int]:
    at, changed = list(stages), changed_keys(tape, steps)
    made: dict[int, int] = {}
    for i, step in enumerate(steps):
        fixed = step.is_module or step.mutates or changed & set(step.uses)
        if step.expect is not None and not fixed:
            at[i] = max((made.get(key, 0) for key in step.uses), default=0)
        made.update(dict.fromkeys(step.makes, at[i]))
    return at
