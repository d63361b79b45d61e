"""Turns any error into text that can be sent to any rank."""

from __future__ import annotations

import traceback

__all__ = ["note", "summary", "trace", "transportable"]

_LINE, _TEXT = 2000, 8000
"""Most characters of a message and of a traceback; longer ones lose their middle."""


def transportable(text: str, limit: int = _TEXT) -> str:
    """Return ``text`` as it can be encoded, printed and sent, in about ``limit`` characters.

    Characters that are no text, such as surrogates and NUL, become escapes.
    """
    if len(text) > limit:
        left_out = len(text) - limit
        half = limit // 2
        text = f"{text[:half]} [... {left_out} characters left out ...] {text[-half:]}"
    encoded = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")
    return encoded.decode("utf-8")


def summary(error: BaseException) -> str:
    """Return the type of an error and its message in one line."""
    try:
        message = str(error)
    except BaseException as caught:  # the error's own code, which must not hide the error
        message = f"(its message cannot be made: {type(caught).__name__})"
    line = " ".join(message.split("\n"))
    if isinstance(error, StopIteration) and not line:
        line = "an iterator, such as that of the micro-batches, has no more"
    name = type(error).__name__
    return transportable(f"{name}: {line}" if line.strip() else name, _LINE)


def note(error: BaseException, text: str) -> None:
    """Add a sentence to an error that is not ours, behind its own text; from Python 3.11 on."""
    if hasattr(error, "add_note"):
        error.add_note(f"({text})")


def trace(error: BaseException) -> str:
    """Return the traceback of an error with its causes, or why there is none."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return transportable("".join(lines))
    except BaseException as caught:
        return f"(its traceback cannot be made: {type(caught).__name__})"
