"""Writes a part of a page of the docs: the lines between two comments that name it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TRAINING_COST", "write_part"]

TRAINING_COST = Path(__file__).parents[1] / "docs" / "training-cost.md"
"""The page of the benchmarks that train."""


def write_part(page: Path, name: str, text: str) -> None:
    """Replace the part ``name`` of ``page`` by ``text``; raise ``ValueError`` if it has none."""
    begin, end = f"<!-- {name}: written by its command -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no part {name!r}: it needs {begin!r} and {end!r}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
