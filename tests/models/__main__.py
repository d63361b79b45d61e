"""Cuts small models of all types in three stages and compares: python -m tests.models --help."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

from .build import MAPPINGS
from .check import Outcome, check
from .crossing import SHOWN, Crossing, crossing
from .forked import Ended, in_processes
from .table import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BOUNDS = {"at_a_time": 2, "seconds": 300, "gigabytes": 10}


def main() -> int:
    """Compare the types that are asked for; return 1 if one of them is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model types; all if none")
    parser.add_argument("--mapping", nargs="+", choices=MAPPINGS, default=list(MAPPINGS))
    parser.add_argument("--write", action="store_true", help="write docs/models.md")
    options = parser.parse_args()
    if options.write and (options.types or options.mapping != list(MAPPINGS)):
        parser.error("--write takes all types of all mappings")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    cases = [
        (mapping, model_type)
        for mapping in options.mapping
        for model_type in MAPPINGS[mapping]
        if not options.types or model_type in options.types
    ]
    if not cases:
        parser.error(f"no mapping of {options.mapping} has a type of {options.types}")
    outcomes: dict[tuple[str, str], Outcome] = {}
    tasks = ((case, functools.partial(check, *case)) for case in cases)
    for case, result in in_processes(tasks, **BOUNDS):
        outcome = Outcome("ended", str(result)) if isinstance(result, Ended) else result
        outcomes[case] = outcome
        print(*case, f"{outcome.verdict}: {outcome.text}".rstrip(": "), flush=True)
    counts = Counter(outcome.verdict for outcome in outcomes.values())
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    if options.write:
        sent: dict[tuple[str, str], Crossing] = {}
        tasks = ((case, functools.partial(crossing, *case)) for case in SHOWN)
        for case, result in in_processes(tasks, **BOUNDS):
            if isinstance(result, Crossing):
                sent[case] = result
        PAGE.write_text(page({case: outcomes[case] for case in cases}, sent))
    return int(any(outcome.verdict in ("WRONG", "ended") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
