"""Values that a rank with several stages hands on to itself, so that they are not sent to it again.

A value may enter a stage of a rank, leave it, and enter a later stage of the same rank. Then it
goes there by a **link**, and the boundaries between carry one small entry for it: None, or the
value where a stage between changed it, or where it is one object with a value that crosses there
(a name means its latest producer, and a stage may write into a tensor).

Stages 0 and 3 on one rank, 1 and 2 on another; ``skip`` is made by stage 0 and used by stage 3:

    stage 0 ──skip@0: None──> stage 1 ──skip@0: None──> stage 2 ──skip@0: None──> stage 3
        └────────────────────────── link 0→3: skip ──────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .liveness import Arg, arg_name
from .local_inputs import overlap
from .stage import Absent, canonical_names, look_up
from .value_state import State, shares_tensor

__all__ = ["Link", "RankLiveness", "rank_liveness"]

_CHANGED = "changed"
_SHARED = "shared"


@dataclass(frozen=True)
class Link:
    """The values ``names`` that go from stage ``source`` to stage ``target`` of the same rank."""

    source: int
    target: int
    names: tuple[str, ...]

    def entry(self, name: str) -> str:
        """Return the name under which a boundary carries the entry of a value."""
        return _entry(name, self.source)

    def resolve(self, env: dict[str, Any], values: Mapping[str, Any]) -> None:
        """Add this link's ``values`` to those that crossed the boundary, which precede them."""
        for name in self.names:
            entry = env.pop(self.entry(name))
            env[name] = values[name] if entry is None else entry[1]


@dataclass(frozen=True)
class RankLiveness:
    """The values that enter each stage, and the way of each.

    ``liveness[k]`` names the values that cross the boundary before stage k, entries of links among
    them; ``liveness[0]`` the model's inputs. ``links`` are those of all ranks, each stage the
    target of one at most.
    """

    liveness: list[list[str]]
    links: list[Link]

    def before(self, env: Mapping[str, Any], stage: int) -> dict[tuple[str, int], State]:
        """Return the states of values that links pass by, before the stage runs, for ``after``."""
        return {
            (name, link.source): State(_value(env, name, link.source))
            for link in self.links
            if link.source < stage < link.target
            for name in link.names
        }

    def after(
        self,
        env: dict[str, Any],
        before: Mapping[tuple[str, int], State],
        stage: int,
    ) -> None:
        """Set the entries of links for the boundary behind the stage.

        ``env`` holds the values that leave it. A value that shares a tensor with one that crosses
        this boundary crosses too, so that both are one object behind it.
        """
        values = {
            (name, link.source): _value(env, name, link.source)
            for link in self.links
            if link.source <= stage < link.target
            for name in link.names
        }
        carried: dict[tuple[str, int], str] = {}
        for key, state in before.items():
            entry = env.get(_entry(*key))
            if (entry is not None and entry[0] == _CHANGED) or not state.is_of(values[key]):
                carried[key] = _CHANGED
        own = [name for name in self.liveness[stage + 1] if "@" not in name]
        crossing = [(name, look_up(env, name)) for name in own]
        found = True
        while found:  # an entry that crosses may share a tensor with another one
            others = [*crossing, *((key[0], values[key]) for key in carried)]
            shared = [
                key
                for key, value in values.items()
                if key not in carried
                and any(not overlap(key[0], n) and shares_tensor(value, v) for n, v in others)
            ]
            carried.update(dict.fromkeys(shared, _SHARED))
            found = bool(shared)
        for key, value in values.items():
            env[_entry(*key)] = (carried[key], value) if key in carried else None


def rank_liveness(
    liveness: Sequence[Sequence[str]],
    stage_id_2_arg_names: Mapping[int, Sequence[Arg]],
    owners: Sequence[int],
    outputs: Sequence[str | Sequence[str] | None],
) -> RankLiveness:
    """Find the links of stages that lie on the ranks ``owners``.

    The other arguments are those of a :class:`pipecodec.Partition`. Neighbours on one rank need no
    link: nothing is sent between them. Where a stage does not declare its outputs, the first
    argument of the next stage counts as one.
    """
    count = len(liveness)
    takes = [list(map(arg_name, stage_id_2_arg_names[k])) for k in range(count)]
    makes = [_made(k, stage_id_2_arg_names, outputs, liveness) for k in range(count)]
    crossing: list[list[str]] = [list(liveness[0])] + [[] for _ in range(1, count)]
    named: dict[tuple[int, int], list[str]] = {}
    needed: set[tuple[str, int]] = set()  # values that links take on from a stage
    names = dict.fromkeys(name for live in liveness[1:] for name in live)
    for name in sorted(names, key=lambda name: -name.count(".")):  # an item may come out of a whole
        carried = False
        for stage in range(count - 1, 0, -1):
            if name not in liveness[stage]:
                carried = False
                continue
            taken = any(overlap(name, other) for other in takes[stage])
            if not (taken or carried or any(k == stage and overlap(n, name) for n, k in needed)):
                continue
            source = _source(name, stage, liveness, makes, owners)
            carried = source is None
            if source is None:
                crossing[stage].append(name)
            else:
                needed.add((name, source))
                named.setdefault((source, stage), []).append(name)
    links = [Link(*places, tuple(names)) for places, names in sorted(named.items())]
    for link in links:
        for stage in range(link.source + 1, link.target + 1):
            crossing[stage] += map(link.entry, link.names)
    for stage in range(1, count):
        place = {name: position for position, name in enumerate(liveness[stage])}
        crossing[stage].sort(key=lambda name: place.get(name, len(place)))
    return RankLiveness(crossing, links)


def _source(
    name: str,
    stage: int,
    liveness: Sequence[Sequence[str]],
    makes: Sequence[Sequence[str]],
    owners: Sequence[int],
) -> int | None:
    """Return the latest earlier stage on the rank of this one that has the value, unless next."""
    for source in range(stage - 1, -1, -1):
        if not any(_holds(whole, name) for whole in liveness[source + 1]):
            return None  # it was made later
        if owners[source] == owners[stage]:
            return None if source == stage - 1 else source
        if any(_holds(made, name) for made in makes[source]):
            return None  # before, the name means another value
    return None


def _made(
    stage: int,
    stage_id_2_arg_names: Mapping[int, Sequence[Arg]],
    outputs: Sequence[str | Sequence[str] | None],
    liveness: Sequence[Sequence[str]],
) -> Sequence[str]:
    """Return the names that the stage surely, or very likely, gives to new values."""
    declared = outputs[stage]
    if declared is not None:
        return [declared] if isinstance(declared, str) else declared
    if canonical_names(liveness):
        return []
    return list(map(arg_name, stage_id_2_arg_names.get(stage + 1, ())))[:1]


def _holds(whole: str, name: str) -> bool:
    return f"{name}.".startswith(f"{whole}.")


def _value(env: Mapping[str, Any], name: str, source: int) -> Any:
    """Return a value that a link passes on, or ABSENT where only the link has it."""
    value = look_up(env, name)
    entry = env.get(_entry(name, source))
    return entry[1] if value is Absent.ABSENT and entry is not None else value


def _entry(name: str, source: int) -> str:
    return f"{name}@{source}"  # no name of a value holds an @
