"""A report on a terminal: tables of stages and values, then problems with their remedies."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..report import Boundary, Crossing, Problem, Report
from ..report.text import (
    boundary_notes,
    crossing_cells,
    messages,
    schedule_lines,
    size,
    stage_cells,
)
from .terminal import printable

__all__ = ["show"]

MOST = 40
"""Values of one boundary that are shown; --json and --html have all."""


def show(report: Report, console: Console) -> None:
    """Print a report, without spaces at the ends of lines."""
    with console.capture() as captured:
        _print(report, console)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _print(report: Report, console: Console) -> None:
    console.print(_stages(report))
    sentence, source = schedule_lines(report)
    console.print()
    console.print(_text(sentence))
    console.print(_indented(source, 2, "dim"))
    for boundary in report.boundaries:
        console.print()
        console.print(_boundary(boundary))
    console.print()
    _problems(console, "problems", report.errors, "bold red")
    if report.warnings:
        console.print()
        _problems(console, "warnings", report.warnings, "bold yellow")
    if report.notes:
        console.print()
        console.print(Text("notes", "bold"))
        for note in report.notes:
            console.print(_indented(note, 2))


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


def _indented(text: str, by: int, style: str = "") -> Padding:
    return Padding(_text(text, style), (0, 0, 0, by))


def _table(head: Sequence[str], right: set[int]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for i, title in enumerate(head):
        table.add_column(
            title,
            justify="right" if i in right else "left",
            overflow="fold",
            no_wrap=i in right,
        )
    return table


def _stages(report: Report) -> Table:
    head = ["stage", "begins with", "parameters", "trained", "weights", "gradients"]
    table = _table([*head, report.optimizer, "forward"], right={2, 4, 5, 6, 7})
    for stage in report.stages:
        table.add_row(*map(_text, stage_cells(stage)))
    return table


def _boundary(boundary: Boundary) -> Group:
    k = boundary.index
    title = _text(f"boundary {k}→{k + 1}", "bold")
    title.append(printable(": " + messages(boundary)), "not bold")
    if not boundary.crossings:
        return Group(title, _indented("nothing crosses", 2))
    shown = sorted(boundary.crossings, key=lambda each: -each.nbytes)[:MOST]
    table = _table(["value", "type", "bytes", "travels", "gradient", "made by", "used by"], {2})
    for crossing in boundary.crossings:
        if crossing in shown:
            table.add_row(*(_text(cell) for cell in crossing_cells(crossing)))
    rest = _rest(boundary.crossings, len(shown))
    notes = [_indented(note, 2, "dim") for note in boundary_notes(boundary)]
    return Group(title, Padding(table, (0, 0, 0, 2)), *rest, *notes)


def _rest(crossings: Sequence[Crossing], shown: int) -> list[Padding]:
    left = sorted(crossings, key=lambda each: -each.nbytes)[shown:]
    if not left:
        return []
    nbytes = size(sum(each.nbytes for each in left))
    return [_indented(f"and {len(left):,} more, {nbytes}: see --json or --html", 2)]


def _problems(console: Console, title: str, problems: Sequence[Problem], style: str) -> None:
    console.print(Text(title, style) if problems else Text(f"no {title}", "bold green"))
    for stage, fault, remedy in problems:
        where = "all stages" if stage is None else f"stage {stage}"
        console.print(_indented(f"{where}: {fault}", 2))
        if remedy:
            console.print(_indented(f"→ {remedy}", 4, "cyan"))
