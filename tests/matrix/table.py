"""The outcomes as the table of docs/abi.md, between two marks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .cells import PINNED, ROOT, Cell, cells

__all__ = ["Outcome", "load", "save", "write"]

PAGE = ROOT / "docs" / "abi.md"
BEGIN, END = "<!-- python -m tests.matrix --write: -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: ``text`` has pytest's counts, or why it could not be run.

    ``commit`` is that of the code, "-dirty" where it was changed.
    """

    text: str
    seconds: int
    date: str
    commit: str


def load(file: Path) -> dict[Cell, Outcome]:
    """Return the outcomes of earlier runs."""
    rows = json.loads(file.read_text()) if file.exists() else []
    return {Cell(**row["cell"]): Outcome(**row["outcome"]) for row in rows}


def save(file: Path, outcomes: dict[Cell, Outcome]) -> None:
    """Keep the outcomes for later runs."""
    rows = [{"cell": asdict(c), "outcome": asdict(outcome)} for c, outcome in outcomes.items()]
    file.write_text(json.dumps(rows, indent=1))


def write(outcomes: dict[Cell, Outcome]) -> None:
    """Put the table of all cells into the page."""
    lines = [
        "| Python | torch | DeepSpeed | transformers | tests | date | commit |\n"
        "|---|---|---|---|---|---|---|\n"
    ]
    for cell in cells():
        outcome = outcomes.get(cell, Outcome("not run", 0, "", ""))
        versions = [
            f"**{value}**" if value != asdict(PINNED)[name] or cell == PINNED else value
            for name, value in asdict(cell).items()
        ]
        said = [outcome.text, outcome.date, outcome.commit]
        lines.append(f"| {' | '.join([*versions, *said])} |\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}{''.join(lines)}{END}{tail}")
