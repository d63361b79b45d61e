"""Text on a terminal, a pipe or a file, whatever it can show."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from typing import TextIO

from rich.console import Console

__all__ = ["console", "printable", "tolerant"]

_PIPE_WIDTH = 110
"""Columns where the output is no terminal, and no COLUMNS is set."""

_PLAIN = {"→": "->", "…": "...", "·": "-", "×": "x", "–": "-", "é": "e"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return the text with control characters, but for newline and tab, as escapes (``\x1b``)."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def tolerant(stream: TextIO) -> None:
    """Let a stream write characters that its encoding has not in plainer ones."""
    with contextlib.suppress(AttributeError, ValueError):
        stream.reconfigure(errors="pipecodec")  # type: ignore[attr-defined]


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each) or _escaped(each) for each in text), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()


codecs.register_error("pipecodec", _plainer)


def console(file: TextIO) -> Console:
    """Return a console for one of the command's streams, with colours on terminals alone.

    NO_COLOR, TERM=dumb and COLUMNS are honoured.
    """
    terminal = file.isatty()
    width = None
    if not terminal and not os.environ.get("COLUMNS", "").isdigit():
        width = _PIPE_WIDTH
    return Console(
        file=file,
        force_terminal=terminal,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
