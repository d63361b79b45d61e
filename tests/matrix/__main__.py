"""Runs the tests in environments with other versions: python -m tests.matrix --help.

Each cell is built from the sdist in an environment of its own below build/matrix, which is removed
afterwards, but for its log.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from .cells import OTHERS, PINNED, ROOT, Cell, cells
from .environment import CannotRunError, Environment, interpreter
from .table import Outcome, load, save, write

FOLDER = ROOT / "build" / "matrix"
RESULTS = FOLDER / "results.json"
COUNTED = ("failed", "error", "passed", "skipped")


def main() -> int:
    """Run the cells that are asked for; return 1 if a test failed in one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    for name in OTHERS:
        parser.add_argument(f"--{name}", metavar="VERSION", help="run one cell, with this version")
    parser.add_argument("--all", action="store_true", help="all tests of each cell, half an hour")
    parser.add_argument("--keep", action="store_true", help="keep the environments, gigabytes")
    parser.add_argument("--list", action="store_true", help="name the cells, and run none")
    parser.add_argument("--write", action="store_true", help="put the table into docs/abi.md")
    options = parser.parse_args()
    named = {name: getattr(options, name) for name in OTHERS if getattr(options, name)}
    asked = [replace(PINNED, **named)] if named else cells()
    if options.list:
        print(*asked, sep="\n")
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    sdist, commit = build_sdist(), code()
    failed = False
    for (python, torch), group in itertools.groupby(asked, lambda cell: (cell.python, cell.torch)):
        folder = FOLDER / f"python{python}-torch{torch}"
        started = time.monotonic()
        problem = ""
        try:
            environment = Environment(folder, interpreter(python), torch, sdist)
        except CannotRunError as error:
            problem = str(error)
        for cell in group:
            text = problem or run(environment, cell, options.all)
            failed |= re.search(r"\d (failed|error)", text) is not None
            keep(cell, text, started, commit)
            started = time.monotonic()
        if not options.keep:
            for part in ("venv", "source"):
                shutil.rmtree(folder / part, ignore_errors=True)
    if options.write:
        write(load(RESULTS))
    return int(failed)


def keep(cell: Cell, text: str, started: float, commit: str) -> None:
    """Print a row, and put it among the results."""
    seconds = round(time.monotonic() - started)
    print(f"{cell}: {text} ({seconds} s)", flush=True)
    today = datetime.now(tz=timezone.utc).date().isoformat()
    save(RESULTS, load(RESULTS) | {cell: Outcome(text, seconds, today, commit)})


def run(environment: Environment, cell: Cell, everything: bool) -> str:
    """Install the cell's engine and models, run its tests, and return the counts."""
    try:
        environment.alone(f"transformers=={cell.transformers}")
        environment.alone(f"deepspeed=={cell.deepspeed}")
    except CannotRunError as error:
        return str(error)
    counts: Counter[str] = Counter()
    for arguments in [[]] if everything else cell.runs():
        said = environment.pytest(arguments)
        found = re.findall(r"(\d+) (failed|error|passed|skipped)", said)
        if not found:
            return f"1 error: {said}"
        counts.update({name: int(number) for number, name in found})
    return ", ".join(f"{counts[name]} {name}" for name in COUNTED if counts[name])


def code() -> str:
    """Return the commit of the clone, with "-dirty" where a file differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout[:-1]


def build_sdist() -> Path:
    """Build the sdist, and return its path."""
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(FOLDER)]
    subprocess.run(command, cwd=ROOT, check=True)
    (sdist,) = FOLDER.glob("pipecodec-*.tar.gz")
    return sdist


if __name__ == "__main__":
    sys.exit(main())
