"""The place in a model's code from which a call came."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from types import FrameType

import torch

__all__ = ["code_frames", "is_inner", "place", "told"]

_PACKAGE = Path(__file__).resolve().parents[1]
_OWN = tuple(
    f"{room}{os.sep}"
    for room in sorted(_PACKAGE.iterdir())
    if room.is_dir() and room.name != "demo"  # whose models are models like any other
)
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_PYTHON = sysconfig.get_paths()["stdlib"] + os.sep
_SHOWN = 2  # the folder and the file


def place() -> str:
    """Return "file:line" of the innermost frame of the model, or of its caller."""
    for frame in code_frames():
        if not is_inner(frame.f_code.co_filename):
            return told(frame.f_code.co_filename, frame.f_lineno)
    return "an unknown place"


def told(file: str, line: int) -> str:
    """Return a place as messages show it: an installed file below its package."""
    parts = Path(file).parts
    package = "site-packages" in parts
    shown = parts[parts.index("site-packages") + 1 :] if package else parts[-_SHOWN:]
    return f"{'/'.join(shown)}:{line}"


def is_inner(file: str) -> bool:
    """Whether a file is torch's, Python's own or this package's, whose lines tell users nothing."""
    library = file.startswith(_PYTHON) and "site-packages" not in file
    return library or file.startswith((*_OWN, _TORCH, "<frozen"))


def code_frames() -> list[FrameType]:
    """Return the frames above this package's own, innermost first."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OWN):
            frames.append(frame)
        frame = frame.f_back
    return frames
