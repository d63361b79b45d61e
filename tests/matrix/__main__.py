"""Runs the tests in environments with other versions: python -m tests.matrix --help.

Each cell is built from the sdist in an environment of its own below build/matrix, which is removed
afterwards, but for its log.
"""

from __future__ import annotations

import argparse
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
COUNTED = ("failed", "errors", "passed", "skipped", "deselected")


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
    outcomes = load(RESULTS)
    sdist = build_sdist()
    environment: Environment | None = None
    for number, cell in enumerate(asked):
        same = number > 0 and asked[number - 1].torch == cell.torch
        same = same and asked[number - 1].python == cell.python
        started = time.monotonic()
        try:
            if environment is None or not same:
                environment = None
                folder = FOLDER / f"python{cell.python}-torch{cell.torch}"
                environment = Environment(folder, interpreter(cell.python), cell.torch, sdist)
            text = run(environment, cell, options.all)
        except CannotRunError as error:
            text = f"cannot run here: {error}"
        seconds = round(time.monotonic() - started)
        today = datetime.now(tz=timezone.utc).date().isoformat()
        print(f"{cell}: {text} ({seconds} s)", flush=True)
        outcomes = load(RESULTS) | {cell: Outcome(text, seconds, today)}
        save(RESULTS, outcomes)
        last = number + 1 == len(asked) or asked[number + 1].torch != cell.torch
        last = last or asked[number + 1].python != cell.python
        if environment is not None and last and not options.keep:
            for part in ("venv", "source"):
                shutil.rmtree(environment.folder / part, ignore_errors=True)
    if options.write:
        write(outcomes)
    return int(any(re.search("failed|error", outcomes[cell].text) for cell in asked))


def run(environment: Environment, cell: Cell, everything: bool) -> str:
    """Install the cell's engine and models, run its tests, and return the counts."""
    environment.alone(f"transformers=={cell.transformers}")
    environment.alone(f"deepspeed=={cell.deepspeed}")
    counts: Counter[str] = Counter()
    for arguments in [[]] if everything else cell.runs():
        said = environment.pytest(arguments)
        found = re.findall(r"(\d+) (failed|error|passed|skipped)", said)
        if not found:
            raise CannotRunError(said)
        counts.update({name: int(number) for number, name in found})
    return ", ".join(f"{counts[name]} {name}" for name in COUNTED if counts[name])


def build_sdist() -> Path:
    """Build the sdist, and return its path."""
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(FOLDER)]
    subprocess.run(command, cwd=ROOT, check=True)
    (sdist,) = FOLDER.glob("pipecodec-*.tar.gz")
    return sdist


if __name__ == "__main__":
    sys.exit(main())
