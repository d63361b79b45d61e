"""Random stages with values that are shared, skip stages, are replaced and written into.

A value is a list with a digest of all that it was made of, so that two runs are alike if every
stage was called with equal arguments.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from pipecodec.stages.liveness import Liveness, analyze_signatures

__all__ = ["Call", "Made", "RandomStages", "digest", "random_stages"]

Call = dict[str, str]
"""The arguments of one stage's call, as text."""


def digest(*parts: object) -> list[str]:
    return [hashlib.sha256(repr(parts).encode()).hexdigest()[:8]]


@dataclass(frozen=True)
class Made:
    """One stage: the names it takes, those of which may be absent, and the names it gives.

    ``shares`` names for a given value the argument that it is, ``writes`` the arguments that the
    stage changes. ``declared`` tells whether the stage's outputs are declared.
    """

    takes: tuple[str, ...]
    optional: frozenset[str]
    gives: tuple[str, ...]
    declared: bool
    shares: Mapping[str, str]
    writes: tuple[str, ...]

    def parameters(self) -> list[inspect.Parameter]:
        required = [name for name in self.takes if name not in self.optional]
        rest = [name for name in self.takes if name in self.optional]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return [
            *(inspect.Parameter(name, kind) for name in required),
            *(inspect.Parameter(name, kind, default=None) for name in rest),
        ]

    def call(self, index: int, given: Mapping[str, Any], calls: list[Call]) -> dict[str, Any]:
        """Run stage ``index`` and note its arguments."""
        seen = {name: repr(value) for name, value in sorted(given.items())}
        calls.append(seen)
        for name in self.writes:
            if name in given:
                given[name].append(f"written by {index}")
        made = {name: digest(index, name, seen) for name in self.gives}
        shared = {name: given[source] for name, source in self.shares.items() if source in given}
        return {**made, **shared}


@dataclass(frozen=True)
class RandomStages:
    inputs: tuple[str, ...]
    stages: tuple[Made, ...]

    def batch(self) -> dict[str, Any]:
        return {name: digest(name) for name in self.inputs}

    def outputs(self) -> list[Sequence[str] | None]:
        return [stage.gives if stage.declared else None for stage in self.stages]

    def flow(self) -> Liveness:
        parameters = [stage.parameters() for stage in self.stages]
        return analyze_signatures(parameters, self.outputs(), self.inputs)

    def calls(self) -> list[Call]:
        """Run all stages one after the other on one set of values."""
        calls: list[Call] = []
        values = self.batch()
        for index, stage in enumerate(self.stages):
            given = {name: values[name] for name in stage.takes if name in values}
            values.update(stage.call(index, given, calls))
        return calls


@st.composite
def random_stages(draw: st.DrawFn, *, declared: bool) -> RandomStages:
    """Draw stages; without ``declared`` some do not declare their outputs."""
    inputs = [f"input{i}" for i in range(draw(st.integers(1, 3)))]
    writing = draw(st.booleans())  # a value under two names that is written to is nobody's promise
    declared = declared or draw(st.booleans())
    known = list(inputs)
    stages = []
    for index in range(draw(st.integers(1, 5))):
        takes = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
        maybe = draw(st.sets(st.sampled_from([*takes, "nothing"])))
        own = [f"made{index}{i}" for i in range(draw(st.integers(1, 2)))]
        again = draw(st.lists(st.sampled_from(known), max_size=1))
        gives = tuple(dict.fromkeys([*own, *again]))
        shares = (
            {} if writing else draw(st.dictionaries(st.sampled_from(own), st.sampled_from(takes)))
        )
        stages.append(
            Made(
                takes=tuple(dict.fromkeys([*takes, *sorted(maybe)])),
                optional=frozenset(maybe),
                gives=gives,
                declared=declared or draw(st.booleans()),
                shares=shares,
                writes=tuple(draw(st.sets(st.sampled_from(takes)))) if writing else (),
            )
        )
        known = list(dict.fromkeys([*known, *gives]))
    return RandomStages(tuple(inputs), tuple(stages))
