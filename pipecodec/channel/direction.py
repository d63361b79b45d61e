"""One way of values, which go whole or end it: a direction of a channel, a group's broadcasts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

__all__ = ["Direction"]


class Direction:
    """The context in which a value is sent or received, of one thread at a time.

    Memory can run out between a message and its tensors, and a signal's handler, such as the one of
    Ctrl-C, may raise anywhere. Later values would get other values' tensors then, so ``cut`` says
    why there are none. ``call`` and ``remedy`` stand in that text.
    """

    def __init__(self, call: str, remedy: str) -> None:
        self.lock = threading.RLock()
        self.over = ""
        """Why nothing follows any more."""
        self.cut = ""
        """Why nothing follows a value that was cut short."""
        self.begun: Callable[[], int] = int
        """Grows with each message: an error in front of the next one leaves all as it was."""
        self._call, self._remedy, self._before = call, remedy, 0
        self._interrupted = self._why("an interrupt")

    def __enter__(self) -> None:
        self._before = self.begun()
        self.cut = self._interrupted

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is not None and self.begun() != self._before:
            self.cut = self._why(type(error).__name__)
        else:
            self.cut = ""

    def _why(self, cause: str) -> str:
        return (
            f"{cause} cut a {self._call} short, so that later values would be mistaken; "
            f"{self._remedy}"
        )
