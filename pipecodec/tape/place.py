"""The place in a model's code from which a call came."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

__all__ = ["code_frames", "place"]

_PACKAGE = Path(__file__).resolve().parents[1]
_OWN = tuple(f"{_PACKAGE / room}{os.sep}" for room in ("tape", "cutting"))
_TORCH = f"{os.sep}torch{os.sep}"
_SHOWN = 2  # the folder and the file


def place() -> str:
    """Return "file:line" of the innermost frame that is neither torch's nor this package's."""
    for frame in code_frames():
        file = frame.f_code.co_filename
        if _TORCH not in file:
            parts = Path(file).parts
            package = "site-packages" in parts
            shown = parts[parts.index("site-packages") + 1 :] if package else parts[-_SHOWN:]
            return f"{'/'.join(shown)}:{frame.f_lineno}"
    return "an unknown place"


def code_frames() -> list[FrameType]:
    """Return the frames above this package's own, innermost first."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OWN):
            frames.append(frame)
        frame = frame.f_back
    return frames
