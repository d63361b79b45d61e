"""Values that pass stages by, grouped by the stage that makes them and the one that takes them."""

from __future__ import annotations

from dataclasses import dataclass

from .facts import Report

__all__ = ["Skip", "skips"]


@dataclass(frozen=True)
class Skip:
    """Values that pass at least one stage by: all that one stage gives to one later stage."""

    maker: int
    user: int
    names: tuple[str, ...]
    nbytes: int

    @property
    def mark(self) -> str:
        """The name of a maker and a user, as in "0→3"."""
        return f"{self.maker}→{self.user}"


def skips(report: Report) -> list[Skip]:
    """Return the values that skip stages, grouped, those of the first maker first.

    An input of the model comes from stage 0, which receives it.
    """
    found: dict[tuple[int, int], dict[str, int]] = {}
    for boundary in report.boundaries:
        for each in boundary.crossings:
            maker = each.made_by or 0
            if maker != boundary.index or each.travels == "own batch":
                continue
            for user in each.used_by:
                if user > maker + 1:
                    found.setdefault((maker, user), {})[each.path] = each.nbytes
    return [
        Skip(maker, user, tuple(values), sum(values.values()))
        for (maker, user), values in sorted(found.items())
    ]
