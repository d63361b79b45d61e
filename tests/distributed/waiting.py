"""Ways in which one rank can leave the others waiting, and how soon all of them know why.

``python -m tests.distributed.waiting [name ...]`` prints the table of docs/errors.md. In each
case one rank of three does something that the others do not, and lives on, unless the case is that
it ends, until all others know; so it is not its end that they notice.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipecodec.demo.launch import Rank

from .harness import outcomes, wait_for_others
from .waiting_calls import CALLS
from .waiting_ends import ENDS, SLOW
from .waiting_errors import ERRORS

__all__ = ["CASES", "SLOW", "run"]

CASES = {**CALLS, **ERRORS, **ENDS}
EVERY = {**CASES, **SLOW}


def _rank(rank: Rank, name: str, folder: str) -> str:
    case = EVERY[name]
    here = rank.rank == case.fault
    try:
        case.function(here, lambda: rank.say(("fault", "")), Path(folder, "checkpoint"))
    except BaseException as error:
        if here and case.ends:
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        rank.say(("knows", f"{type(error).__name__}: {lines[0] if lines else ''}"))
    wait_for_others(rank, folder, rank.world - case.ends)
    return name


def run(name: str) -> tuple[float | None, list[str], list[Any]]:
    """Return the seconds until all others knew, each rank's first line, and how ranks ended.

    None for the seconds if some rank was not told.
    """
    began, told, lines = time.monotonic(), {}, [""] * 3

    def hear(rank: int, message: tuple[str, str]) -> None:
        nonlocal began
        kind, text = message
        if kind == "fault":
            began = time.monotonic()
        else:
            told[rank], lines[rank] = time.monotonic(), text

    with tempfile.TemporaryDirectory() as folder:
        ended = outcomes(_rank, 3, name, folder, on_message=hear, timeout=40.0)
    waiting = set(range(3)) - {EVERY[name].fault}
    seconds = max(told[rank] for rank in waiting) - began if waiting <= told.keys() else None
    return seconds, lines, ended


def main(names: list[str]) -> None:
    print("| fault of one rank | seconds | the others read |\n|---|---|---|")
    for name in names or EVERY:
        case = EVERY[name]
        seconds, lines, ended = run(name)
        other = lines[(case.fault + 1) % 3]
        bad = [f" {o.rank}:{o.status}" for o in ended if o.status != "ok" and not case.ends]
        told = "not told" if seconds is None else f"{seconds:.1f}"
        print(f"| {name} | {told} | `{other[:200]}`{''.join(bad)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
