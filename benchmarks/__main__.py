"""Command line: ``python -m benchmarks [--quick] [--json PATH]``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.contenders import available
from benchmarks.measure import measure
from benchmarks.report import as_json, as_text
from benchmarks.structures import structures

__all__ = ["main"]

ROUNDS, QUICK_ROUNDS = 400, 30


def main() -> None:
    """Measure every structure with every contender that is there, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, not {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there as JSON")
    options = parser.parse_args()
    rounds = QUICK_ROUNDS if options.quick else ROUNDS

    torch.set_num_threads(1)
    present, missing = available()
    results = [measure(structure, present, rounds) for structure in structures()]
    print(as_text(results, missing, rounds))
    if options.json is not None:
        report = as_json(results, missing, rounds)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
