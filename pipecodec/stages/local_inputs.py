"""Inputs that the last stage takes from its own batch, so that they cross no boundary for it.

An engine may load a batch on the first and on the last stage. A name means its latest producer, and
a stage may write into a tensor, so an input is the batch's own as long as no stage before the last
one changed it. Where that cannot be ruled out, one entry crosses every boundary: LOCAL, or the
changed value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .liveness import Arg, OptionalArg, arg_name
from .stage import Absent, canonical_names, look_up
from .value_state import State

__all__ = ["Local", "LocalInputs", "find_local_inputs", "overlap"]

_MARK = "@batch"  # no name of a value holds an @


class Local(Enum):
    """Stands at a boundary for an input that the batches of both the first and last stage hold."""

    LOCAL = 0


@dataclass(frozen=True)
class LocalInputs:
    """The inputs that the last stage takes from its own batch, and the values that still cross.

    ``names`` are those inputs, or items of inputs, ``roots`` the whole inputs, and ``required`` the
    names without a default. ``marked`` are the names that a stage before the last one may change.
    ``liveness[k]`` names the values that enter stage k as in
    :class:`pipecodec.stages.liveness.Liveness`, without those that only the last stage takes from
    its batch, and with an entry for each marked one.
    """

    names: tuple[str, ...]
    roots: tuple[str, ...]
    required: frozenset[str]
    marked: tuple[str, ...]
    liveness: Mapping[int, Sequence[str]] | Sequence[Sequence[str]]

    @classmethod
    def none(cls, liveness: Mapping[int, Sequence[str]] | Sequence[Sequence[str]]) -> LocalInputs:
        """Return no such inputs: all values cross that ``liveness`` names."""
        return cls((), (), frozenset(), (), liveness)

    def before(self, env: dict[str, Any], stage_id: int) -> dict[str, State]:
        """Return the state of the marked inputs before the stage's module runs, for ``after``."""
        if stage_id == 0:
            for name in self.marked:
                given = look_up(env, name) is not Absent.ABSENT
                env[name + _MARK] = Local.LOCAL if given else Absent.ABSENT
        return {name: State(look_up(env, name)) for name in self.marked}

    def after(
        self, env: dict[str, Any], before: Mapping[str, State], following: Sequence[str]
    ) -> None:
        """Let the inputs that the stage changed cross: another value, or one that was written to.

        So does one whose tensors go on under another name too, as one object. ``env`` holds the
        stage's outputs by name, and ``following`` names the values that enter the next stage.
        """
        for name, state in before.items():
            value = look_up(env, name)
            others = (look_up(env, other) for other in following if not overlap(name, other))
            if not state.is_of(value) or state.is_in(others):
                env[name + _MARK] = value

    def resolve(self, env: dict[str, Any], batch: Mapping[str, Any]) -> None:
        """Add the inputs to the values that the last stage received; ``batch`` has its own.

        Raises ValueError for an input that it lacks, and that has no default or is in the first
        stage's batch.
        """
        for name in self.names:
            crossed = env.pop(name + _MARK, Absent.ABSENT)
            value = look_up(batch, name) if isinstance(crossed, (Local, Absent)) else crossed
            expected = crossed is Local.LOCAL or name in self.required
            if value is Absent.ABSENT and expected:
                raise ValueError(
                    f"the last stage takes {name!r} from the batch of its own rank, which lacks "
                    f"it; give the first and the last rank of a pipeline the same batches"
                )
            env[name] = value


def find_local_inputs(
    liveness: Sequence[Sequence[str]],
    stage_id_2_arg_names: Mapping[int, Sequence[Arg]],
    outputs: Sequence[str | Sequence[str] | None],
) -> LocalInputs:
    """Find the inputs that the last stage can take from its own batch.

    The arguments are those of a :class:`pipecodec.Partition`. An input that an earlier stage
    declares as its output is none, since its name means that output then.
    """
    last = len(liveness) - 1
    inputs = [arg_name(arg) for arg in stage_id_2_arg_names[-1]]
    taken = [list(map(arg_name, stage_id_2_arg_names[k])) for k in range(last + 1)]
    given = [[entry] if isinstance(entry, str) else entry for entry in outputs[:last]]
    replaced = {name for entry in given for name in entry or ()}
    names = tuple(
        name
        for name in dict.fromkeys(taken[last])
        if last > 0 and _root(name) in inputs and _root(name) not in replaced
    )
    undeclared = None in given and not canonical_names(liveness)

    def used_from(stage: int, name: str) -> bool:
        return any(overlap(name, other) for args in taken[stage:last] for other in args)

    marked = tuple(name for name in names if undeclared or used_from(0, name))
    marks = [name + _MARK for name in marked]
    optional = {arg.name for arg in stage_id_2_arg_names[last] if isinstance(arg, OptionalArg)}
    crossing = [
        [name for name in live if name not in names or used_from(k, name)]
        for k, live in enumerate(liveness)
    ]
    return LocalInputs(
        names=names,
        roots=tuple(dict.fromkeys(map(_root, names))),
        required=frozenset(names) - optional,
        marked=marked,
        liveness=[crossing[0], *([*each, *marks] for each in crossing[1:])],
    )


def _root(name: str) -> str:
    return name.partition(".")[0]


def overlap(one: str, other: str) -> bool:
    """Return whether one value is the other, or an item of it at any depth."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
