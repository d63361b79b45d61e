"""Both ends of a ring in one process, and calls that come a moment later."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from pipecodec import _C

__all__ = ["PAGE", "SOON", "later", "ring"]

PAGE = 4096
SOON = 2.0
"""Seconds in which an error has to come."""


def ring(capacity: int = PAGE, most: int = 1 << 20) -> tuple[Any, Any]:
    writer = _C.RingWriter(capacity, most)
    writer.connect(*_C.this_process())
    return writer, _C.RingReader(os.getpid(), writer.file, writer.secret)


def later(seconds: float, act: Callable[[], Any]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
