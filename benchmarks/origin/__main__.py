"""Command line: ``python -m benchmarks.origin``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.origin.models import CASES
from benchmarks.origin.report import Result, as_table, judge
from benchmarks.origin.training import STAGES, in_one_process, on_deepspeed, on_pipecodec
from benchmarks.written import TRAINING_COST, write_part
from pipecodec.demo.launch import run_ranks

__all__ = ["main", "run"]

TIMEOUT = 120.0
NAMES = [case.name for case in CASES]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train models that torch's splitter cuts in the origin's way and in pipecodec."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.origin", description=main.__doc__)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES, metavar="MODEL")
    parser.add_argument(
        "--write", action="store_true", help=f"write the table into docs/{TRAINING_COST.name}"
    )
    options = parser.parse_args(arguments)
    table = as_table(run([NAMES.index(name) for name in options.models]))
    print(table)
    if options.write:
        write_part(TRAINING_COST, "origin", table)


def run(numbers: Sequence[int]) -> list[tuple[str, Result, Result]]:
    """Train ``CASES[number]`` for each; return name, result of the origin's way, and ours."""
    alone = reference(numbers)
    return [
        (
            CASES[number].name,
            trained(on_deepspeed, number, alone[number]),
            trained(on_pipecodec, number, alone[number]),
        )
        for number in numbers
    ]


def reference(numbers: Sequence[int]) -> dict[int, Any]:
    """Train in one process; return losses and weights by number."""
    (alone,) = run_ranks(in_one_process, 1, tuple(numbers), timeout=TIMEOUT)
    if alone.status != "ok":
        raise RuntimeError(f"in one process: {alone.status}\n{alone.detail}")
    found: dict[int, Any] = alone.value
    return found


def trained(way: Callable[..., Any], number: int, alone: Any) -> Result:
    """Train in one of the two ways, and compare."""
    ended = run_ranks(way, STAGES, number, timeout=TIMEOUT, stop_at_failure=True)
    return judge(ended, *alone)


if __name__ == "__main__":
    main()
