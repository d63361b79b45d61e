"""Command line: ``python -m benchmarks``; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.as_json import as_json
from benchmarks.contenders import available
from benchmarks.measure import measure, no_collection
from benchmarks.realistic import realistic
from benchmarks.results import Report, Result
from benchmarks.road import Crossing, road
from benchmarks.scaling import MOST_LEAVES, scaling
from benchmarks.structures import synthetic
from benchmarks.tables import as_text

__all__ = ["main", "parse"]

STRUCTURES = {"synthetic": synthetic, "realistic": realistic}
PARTS = ("road", *STRUCTURES, "scaling")
ROUNDS, QUICK_ROUNDS = 400, 30


def main() -> None:
    """Measure the road that trains, and structures with every contender; print the tables."""
    options = parse(sys.argv[1:])
    torch.set_num_threads(1)
    present, missing = available()
    measured: dict[str, list[Result]] = {}
    crossings: list[Crossing] = []
    for part in options.parts:
        if part == "road":
            with no_collection():
                crossings = road(options.rounds)
        elif part == "scaling":
            measured[part] = scaling(present, options.rounds, options.most_leaves)
        else:
            measured[part] = [measure(s, present, options.rounds) for s in STRUCTURES[part]()]
    report = Report(measured, missing, crossings)
    print(as_text(report))
    if options.json is not None:
        text = json.dumps(as_json(report), indent=1) + "\n"
        options.json.write_text(text, encoding="utf-8")
    if options.plot is not None:
        # matplotlib is needed, and taken, for nothing else.
        from benchmarks.plot import plot

        plot(measured["scaling"], options.plot)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, with what to measure and how often filled in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help=f"road and synthetic, {QUICK_ROUNDS} rounds")
    add("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    add("--rounds", type=int, metavar="N", help=f"at most so many for a structure; else {ROUNDS}")
    add("--most-leaves", type=int, default=MOST_LEAVES, metavar="N", help="where scaling ends")
    add("--json", type=Path, metavar="PATH", help="write everything there as JSON")
    add("--plot", type=Path, metavar="PATH.png", help="draw the part scaling there")
    options = parser.parse_args(arguments)
    if options.parts is None:
        options.parts = ["road", "synthetic"] if options.quick else list(PARTS)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 2 or options.most_leaves < 1:
        parser.error("at least 2 rounds and 1 leaf")
    if options.plot is not None:
        if "scaling" not in options.parts:
            options.parts.append("scaling")
        try:
            importlib.import_module("matplotlib")  # now, not after minutes of measuring
        except ImportError as error:
            parser.error(f"--plot: {error}")
    return options


if __name__ == "__main__":
    main()
