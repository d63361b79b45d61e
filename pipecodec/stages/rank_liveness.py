"""Values that a rank with several stages hands on to itself, so that they are not sent to it again.

A value may enter a stage of a rank, leave it, and enter a later stage of the same rank. Then it
goes there by a **link**, and the boundaries between carry one small entry for it: KEPT, or the
value itself where a stage between changed it (a name means its latest producer, and a stage may
write into a tensor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .liveness import Arg, arg_name
from .local_inputs import State, overlap
from .stage import Absent, look_up

__all__ = ["Kept", "Link", "RankLiveness", "rank_liveness"]


class Kept(Enum):
    """Stands at a boundary for a value that the receiving rank keeps since an earlier stage."""

    KEPT = 0


@dataclass(frozen=True)
class Link:
    """The values ``names`` that go from stage ``source`` to stage ``target`` of the same rank."""

    source: int
    target: int
    names: tuple[str, ...]

    def entry(self, name: str) -> str:
        """Return the name under which a boundary carries the entry of a value."""
        return f"{name}@{self.source}"  # no name of a value holds an @


@dataclass(frozen=True)
class RankLiveness:
    """What enters each stage, and on which way.

    ``liveness[k]`` names the values that cross the boundary before stage k, entries of links among
    them; ``liveness[0]`` the model's inputs. ``links`` are those of all ranks.
    """

    liveness: list[list[str]]
    links: list[Link]
    _may_change: Mapping[int, frozenset[tuple[int, str]]]

    def before(self, env: Mapping[str, Any], stage: int) -> dict[tuple[int, str], State]:
        """Return the states of values that links pass by, before the stage runs, for ``after``."""
        return {key: State(look_up(env, key[1])) for key in self._may_change[stage]}

    def after(
        self,
        env: dict[str, Any],
        before: Mapping[tuple[int, str], State],
        stage: int,
    ) -> None:
        """Set the entries of links for the boundary behind the stage.

        ``env`` holds the values that leave it. A value whose tensors cross this boundary under
        another name too goes with them, since it is one object with those.
        """
        for (source, name), state in before.items():
            value = look_up(env, name)
            if not state.is_of(value):
                env[f"{name}@{source}"] = value
        crossing = [name for name in self.liveness[stage + 1] if "@" not in name]
        for link in self.links:
            if link.source == stage:
                for name in link.names:
                    value = look_up(env, name)
                    others = [look_up(env, n) for n in crossing if not overlap(n, name)]
                    kept = Kept.KEPT if value is not Absent.ABSENT else Absent.ABSENT
                    shared = others and State(value).is_in(others)
                    env[link.entry(name)] = value if shared else kept


def rank_liveness(
    liveness: Sequence[Sequence[str]],
    stage_id_2_arg_names: Mapping[int, Sequence[Arg]],
    owners: Sequence[int],
) -> RankLiveness:
    """Find the links of stages that lie on the ranks ``owners``.

    The other arguments are those of a :class:`pipecodec.Partition`. Neighbours on one rank need no
    link: nothing is sent between them.
    """
    count = len(liveness)
    takes = [list(map(arg_name, stage_id_2_arg_names[k])) for k in range(count)]
    crossing: list[list[str]] = [list(liveness[0])] + [[] for _ in range(1, count)]
    named: dict[tuple[int, int], list[str]] = {}
    for name in dict.fromkeys(name for live in liveness[1:] for name in live):
        carried = [False] * (count + 1)
        sources = set[int]()
        for stage in range(count - 1, 0, -1):
            if name not in liveness[stage]:
                continue
            taken = any(overlap(name, other) for other in takes[stage])
            if not (taken or carried[stage + 1] or stage in sources):
                continue
            source = _source(name, stage, liveness, owners)
            if source is None:
                carried[stage] = True
            else:
                sources.add(source)
                named.setdefault((source, stage), []).append(name)
        for stage in range(1, count):
            if carried[stage]:
                crossing[stage].append(name)
    links = [Link(*places, tuple(names)) for places, names in sorted(named.items())]
    for link in links:
        for stage in range(link.source + 1, link.target + 1):
            crossing[stage] += [link.entry(name) for name in link.names]
    between = {
        stage: frozenset(
            (link.source, name)
            for link in links
            for name in link.names
            if link.source < stage < link.target
        )
        for stage in range(count)
    }
    order = [
        list(dict.fromkeys([n for n in live if n in kept] + kept))
        for live, kept in zip(liveness, crossing, strict=True)
    ]
    return RankLiveness(order, links, between)


def _source(
    name: str, stage: int, liveness: Sequence[Sequence[str]], owners: Sequence[int]
) -> int | None:
    """Return the latest earlier stage on the rank of this one that has the value, unless next."""
    for source in range(stage - 1, -1, -1):
        if name not in liveness[source + 1]:
            return None  # it was made later, or is another value of that name
        if owners[source] == owners[stage]:
            return None if source == stage - 1 else source
    return None
