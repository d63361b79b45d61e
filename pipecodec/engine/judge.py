"""Finds a rank that waits in vain for another, from the calls that both have made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .calls import Progress

__all__ = ["GRACE", "Judge", "Verdict", "differing"]

GRACE = 2.0
"""Seconds in which every rank may raise an error of one call by itself, so that it harms nobody."""

_GRACE_LATER = 5.0
"""Seconds in which a rank that alone raised in a call which the others completed makes the next."""

_LOG_AFTER = 60.0


@dataclass(frozen=True)
class Verdict:
    """``text`` tells all ranks; with ``raised`` the error that ``rank`` raised does."""

    text: str
    rank: int
    raised: bool = False


@dataclass
class Judge:
    """Compares where the others are with where this rank is, which is inside a call.

    ``stall_timeout`` is in seconds, as all times.
    """

    stall_timeout: float
    _raised: dict[tuple[int, int], float] = field(default_factory=dict)
    _logged: int = 0

    def find(
        self,
        mine: tuple[int, Progress],
        others: Mapping[int, Progress],
        ended: set[int],
        waited: float,
        now: float,
        *,
        lost: bool = False,
    ) -> Verdict | None:
        """Return why this rank waits in vain; None as long as it may merely be early.

        ``mine`` has this rank's number and progress, ``others`` that of the ranks it looks at,
        ``ended`` those of them whose processes have. ``waited`` is the time since this rank's call
        began. ``lost`` tells that it lost a connection, so that an error elsewhere is the cause.
        """
        number = mine[1].number
        different = differing(*mine, others)
        if different is not None:
            return different
        for rank, theirs in others.items():
            if self._has_raised(rank, mine[1], theirs, now, lost):
                return Verdict("", rank, raised=True)
        for rank in sorted(ended):
            theirs = others[rank]
            if theirs.number < number or (theirs.number == number and theirs.inside):
                text = f"the process of rank {rank} ended {_place(theirs, mine[1])}"
                if not theirs.inside:
                    text += f"; {_named(mine[1])} is a call that all ranks have to make"
                return Verdict(text, rank)
        for rank, theirs in others.items():
            if theirs.number < number and waited > self.stall_timeout:
                return Verdict(
                    f"rank {rank} did not come to {_named(mine[1])} for {waited:.0f} seconds "
                    f"(stall_timeout); it is {_place(theirs, mine[1])}",
                    rank,
                )
        return None

    def late(self, mine: Progress, others: Mapping[int, Progress], waited: float) -> Iterator[str]:
        """Yield, once in a call, the lines of the log about ranks that have not come to it."""
        if waited < _LOG_AFTER or self._logged == mine.number:
            return
        for rank, theirs in others.items():
            if theirs.number < mine.number:
                self._logged = mine.number
                yield (
                    f"{_named(mine)} has waited {waited:.0f} seconds for rank {rank}, which is "
                    f"{_place(theirs, mine)}"
                )

    def _has_raised(
        self, rank: int, mine: Progress, theirs: Progress, now: float, lost: bool
    ) -> bool:
        for number in range(mine.number, max(0, mine.number - len(mine.calls)), -1):
            own, other = mine.call(number), theirs.call(number)
            if own is None or other is None or other.state != "!" or own.state in "!=":
                continue
            stays_away = own.state == "<" and theirs.number == number < mine.number
            if own.state == ">" or stays_away:
                since = self._raised.setdefault((rank, number), now)
                if lost or now - since >= (_GRACE_LATER if stays_away else GRACE):
                    return True
        return False


def differing(rank: int, mine: Progress, others: Mapping[int, Progress]) -> Verdict | None:
    """Return the first of the ranks' remembered calls that is not the same on all of them."""
    everyone = {rank: mine, **others}
    oldest = mine.number - len(mine.calls) + 1
    for number in range(oldest, mine.number + 1):
        names: dict[str, list[int]] = {}
        for each in sorted(everyone):
            call = everyone[each].call(number)
            if call is not None:
                names.setdefault(call.name, []).append(each)
        if len(names) > 1:
            calls = "; ".join(f"{name} on {_ranks(ranks)}" for name, ranks in names.items())
            return Verdict(
                f"the ranks made different calls, as their call {number}: {calls}; all ranks have "
                f"to make the same calls in the same order",
                min(names.values(), key=len)[0],
            )
    return None


def _place(theirs: Progress, mine: Progress) -> str:
    if not theirs.number:
        return f"before its first call, {mine.calls[-1].name}" if mine.calls else "outside calls"
    last = f"{theirs.calls[0].name} (its call {theirs.number})"
    if theirs.inside:
        return f"inside {last}"
    return f"after {last}{', which raised' * (theirs.calls[0].state != '<')}"


def _named(mine: Progress) -> str:
    return f"{mine.calls[0].name} (call {mine.number})"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
