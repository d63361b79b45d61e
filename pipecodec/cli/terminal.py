"""Text on a terminal, a pipe or a file, whatever it can show."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from typing import TextIO

from rich.console import Console

__all__ = ["console", "printable", "tolerant"]

_PIPE_WIDTH = 110
"""Columns where the output is no terminal, and no COLUMNS is set."""

_PLAIN = {"→": "->", "…": "...", "·": "-", "×": "x", "–": "-", "é": "e"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return the text as stdout will show it, so that tables are laid out for that.

    Control characters, but for newline and tab, are escapes (``\x1b``), and so are characters that
    its encoding has not.
    """
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "pipecodec").decode(encoding)


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


def console(file: TextIO, wide: int = _PIPE_WIDTH) -> Console:
    """Return a console for one of the command's streams, with colours on terminals alone.

    NO_COLOR, TERM=dumb and COLUMNS are honoured; `wide` is the width where there is no terminal.
    """
    terminal = file.isatty()
    width = None
    if not terminal and not os.environ.get("COLUMNS", "").isdigit():
        width = wide
    return Console(
        file=file,
        force_terminal=terminal,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
