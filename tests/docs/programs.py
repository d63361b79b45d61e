"""The programs of docs/symptoms/try.md with the lines of a page, run in two processes."""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass, field
from typing import Any

from pipecodec.demo.launch import Rank
from tests.distributed.harness import outcomes

from .pages import DOCS, blocks

__all__ = ["PROGRAMS", "Ended", "run"]

PLACE = "# The page's lines.\n"
PROGRAMS = {
    word.removeprefix("program="): block.text
    for block in blocks(DOCS / "symptoms" / "try.md")
    for word in block.words
    if word.startswith("program=")
}

CONSEQUENCES = re.compile("gloo/transport|Connection closed by peer|RemoteError")
"""In the error of a rank that another one left alone."""

HANGS = 60.0
"""Seconds after which a program counts as one that hangs; it takes less than one."""


@dataclass
class Ended:
    """How a program ended: the text of the rank that failed by itself, and of another one.

    Without an error there are the losses, of the rank that has them.
    """

    text: str
    other: str = ""
    losses: list[float] = field(default_factory=list)


def execute(rank: Rank, program: str, name: str) -> tuple[str, list[float]]:
    """Run a program as ``python`` does; return its error's text and its losses."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, name, "exec"), names)
    except Exception as error:
        return text_of(error), []
    return "", [float(loss) for loss in names.get("losses", [])]


def text_of(error: Exception) -> str:
    """Return an error's type and message; of an assertion without a message, its condition."""
    message = str(error).strip()
    if isinstance(error, AssertionError) and not message:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        assert trace is not None
        message = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
    return f"{type(error).__name__}: {message}"


def run(program: str, lines: str, name: str, ranks: int = 2) -> Ended:
    before, _, after = PROGRAMS.get(program, "").partition(PLACE)  # "alone" is whole as it is
    ended = outcomes(execute, ranks, before + lines + after, name, timeout=HANGS)
    died = [outcome.detail for outcome in ended if outcome.status == "died"]
    if died:
        code = re.match(r"exit code (-?\d+)", died[0])
        assert code is not None
        said = re.findall(r"\[enforce fail at .*?\] (.*)", died[0])
        return Ended("\n".join([*said[:1], f"exit code {code[1]}"]))
    texts = [outcome.value[0] for outcome in ended if outcome.status == "ok" and outcome.value[0]]
    texts.sort(key=lambda text: CONSEQUENCES.search(text) is not None)
    if texts:
        return Ended(texts[0], texts[-1])
    if any(outcome.status != "ok" for outcome in ended):
        return Ended("hangs")
    return Ended("no error", losses=max((outcome.value[1] for outcome in ended), key=len))
