"""The rows as Markdown tables, one for each size."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.training.cases import ENGINES, MODELS, Size
from benchmarks.training.results import Row, wrong

__all__ = ["as_text"]

HEAD = (
    "model, stages, engine",
    "contender",
    "tokens/s",
    "wall time / by hand",
    "CPU time / by hand",
    "loss, from one process",
)


def as_text(rows: Sequence[Row]) -> str:
    """Return the tables, then the errors of contenders that cannot train a case."""
    sizes = dict.fromkeys(row.case.size for row in rows)
    parts = [_of_size(size, [row for row in rows if row.case.size == size]) for size in sizes]
    return "\n\n".join(parts)


def _of_size(size: Size, rows: Sequence[Row]) -> str:
    blocks = f"{size.blocks} blocks" if size.blocks else "one block in each stage"
    title = (
        f"**{size.name}**: width {size.width}, {blocks}, {size.micro_batches} micro-batches of "
        f"{size.batch} texts of {size.length} tokens; medians of {size.rounds} rounds of "
        f"{size.steps} steps, quartiles in brackets"
    )
    lines = [_line(HEAD), "|---" * len(HEAD) + "|", *(_line(_cells(row)) for row in rows)]
    return "\n".join([title, "", *lines])


def _cells(row: Row) -> tuple[str, ...]:
    case = row.case
    where = f"{MODELS[case.model]}, {case.stages}, {ENGINES[case.engine]}"
    if row.error:
        return (where, row.contender, "-", "-", "-", f"fails: `{row.error}`")
    loss = "equal" if row.difference == 0 else f"{row.difference:.2g}"
    if wrong(row):
        loss = f"**wrong by {row.difference:.2g}**"
    return (where, row.contender, f"{row.tokens:,.0f}", str(row.wall), str(row.cpu), loss)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
