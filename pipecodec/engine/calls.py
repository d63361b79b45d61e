"""The calls that all ranks have to make alike, numbered, and where each rank is in them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Call", "Calls", "Progress"]

_KEPT = 16
"""Calls that a rank remembers: more than a rank can be ahead of one that it talks to."""

State = Literal[">", "<", "!", "="]
"""Within it; ended; ended in an error of this rank; ended in an error that every rank raises."""


@dataclass(frozen=True)
class Call:
    """One call of a rank: its name, with all that ranks have to give alike, and its state."""

    name: str
    state: State


@dataclass(frozen=True)
class Progress:
    """Where a rank is: the number of its last call, from 1, and its last calls, newest first."""

    number: int
    calls: tuple[Call, ...]

    @staticmethod
    def parse(text: str) -> Progress:
        """Parse ``Calls.text``."""
        number, *calls = text.split("\n")
        return Progress(int(number), tuple(Call(call[1:], call[0]) for call in calls))  # type: ignore[arg-type]

    def call(self, number: int) -> Call | None:
        """Return the call with this number; None if it is not made yet, or forgotten."""
        index = self.number - number
        return self.calls[index] if 0 <= index < len(self.calls) else None

    @property
    def inside(self) -> bool:
        """Whether the last call has not ended."""
        return bool(self.calls) and self.calls[0].state == ">"


class Calls:
    """This rank's calls; ``post`` gets their text whenever one begins or ends.

    ``since`` is the time at which the last one began or ended, and ``raised`` tells whether it
    ended in an error of this rank.
    """

    def __init__(self, post: Callable[[str], None]) -> None:
        self._post = post
        self._before: deque[str] = deque(maxlen=_KEPT - 1)
        self._older = ""
        self._number = 0
        self._name = ""
        self.text = "0"
        self.since = 0.0
        self.inside = False
        self.raised = False

    def enter(self, name: str) -> None:
        """Begin a call; never within another."""
        self._number += 1
        self._name = name
        self._older = "\n".join(("", *self._before))
        self.inside = True
        self._say(">")

    def leave(self, state: State = "<") -> None:
        """End the call."""
        self.inside = False
        self.raised = state == "!"
        self._say(state)
        self._before.appendleft(state + self._name)

    def _say(self, state: State) -> None:
        self.since = time.monotonic()
        self.text = f"{self._number}\n{state}{self._name}{self._older}"
        self._post(self.text)
