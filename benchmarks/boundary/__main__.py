"""Command line: ``python -m benchmarks.boundary``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.boundary import parts
from benchmarks.boundary.report import as_text
from benchmarks.environment import environment

__all__ = ["main"]

PARTS = ("time", "counts", "copies", "peaks")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the costs of a boundary: time, messages, waits and memory, beside stages by hand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boundary", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, none of them large")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--stages", nargs="+", type=int, choices=(2, 3), default=(2, 3))
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there as JSON")
    options = parser.parse_args(arguments)

    report: dict[str, Any] = {}
    if "time" in options.parts:
        report["time"] = [t for n in options.stages for t in parts.times(n, options.quick)]
    if "counts" in options.parts:
        report["counts"] = [c for n in options.stages for c in parts.counts(n)]
    if "copies" in options.parts:
        report["copies"] = parts.copies()
    if "peaks" in options.parts:
        report["peaks"] = [p for n in options.stages for p in parts.peaks(n)]
    print(as_text(report))
    if options.json is not None:
        everything = {"environment": environment(), **report}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
