"""The report as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from .facts import Boundary, Crossing, Problem, Report, StageReport

__all__ = [
    "as_text",
    "boundary_notes",
    "crossing_cells",
    "messages",
    "schedule_lines",
    "size",
    "stage_cells",
]


OWN_BATCH = (
    "own batch: DeepSpeed's engine loads the batch on the last rank too, so nothing is sent; "
    "torch's schedules send it from the first rank, beside the bytes above"
)
WIDTH = 110


def as_text(report: Report) -> str:
    """Return the whole report: stages, schedule, each boundary, problems, notes."""
    lines = [*_stages(report), "", *_schedule(report)]
    for boundary in report.boundaries:
        lines += ["", *_boundary(boundary)]
    lines += ["", *_problems(report)]
    if report.notes:
        lines += ["", "notes", *(line for note in report.notes for line in _wrapped(note, 2))]
    return "\n".join(lines)


def size(nbytes: int) -> str:
    """Return a number of bytes with three digits or so, such as 1.5 MiB."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def _stages(report: Report) -> Iterator[str]:
    head = ["stage", "begins with", "parameters", "trained", "weights", "gradients",
            report.optimizer, "forward"]  # fmt: skip
    yield from _table([head, *map(stage_cells, report.stages)], right={2, 4, 5, 6, 7})
    tied = [f"stage {each.index}: {', '.join(each.tied)}" for each in report.stages if each.tied]
    if tied:
        yield from _wrapped(f"tied: {'; '.join(tied)}")


def stage_cells(stage: StageReport) -> list[str]:
    """Return a stage as cells: number, module, parameters, trained, three sizes, its share."""
    if stage.trainable == stage.parameters:
        trained = "all" if stage.parameters else "-"
    else:
        trained = "none" if stage.frozen else f"{stage.trainable:,}"
    return [
        str(stage.index),
        stage.module,
        f"{stage.parameters:,}",
        trained,
        size(stage.weight_bytes),
        size(stage.gradient_bytes),
        size(stage.optimizer_bytes),
        "-" if stage.share is None else f"{100 * stage.share:.0f} %",
    ]


def _schedule(report: Report) -> Iterator[str]:
    text, source = schedule_lines(report)
    yield from _wrapped(text)
    yield from _wrapped(source, 2)


def schedule_lines(report: Report) -> tuple[str, str]:
    """Return a sentence about the schedule's bubble, and the source of its formula."""
    each = report.schedule
    text = (
        f"1F1B with {each.micro_batches} micro-batches: ranks wait {100 * each.bubble:.0f} % of "
        f"the time if stages take equal time"
    )
    if each.measured_bubble is not None:
        text += f", {100 * each.measured_bubble:.0f} % with these times"
    return text, each.source


def _boundary(boundary: Boundary) -> Iterator[str]:
    k = boundary.index
    yield from _wrapped(f"boundary {k}→{k + 1}: " + messages(boundary))
    if boundary.crossings:
        head = ["value", "type", "bytes", "travels", "gradient", "made by", "used by"]
        rows = [head, *map(crossing_cells, boundary.crossings)]
        yield from (f"  {line}" for line in _table(rows, right={2}))
    else:
        yield "  nothing crosses"
    yield from (line for note in boundary_notes(boundary) for line in _wrapped(note, 2))
    yield from _prices(boundary)
    places = {c.maker: None for c in boundary.crossings if c.maker is not None}
    if places:
        yield "  made at"
        yield from (f"    {place}" for place in places)
    rules: dict[str, list[str]] = {}
    for crossing in boundary.crossings:
        for rule in crossing.rules:
            rules.setdefault(rule, []).append(crossing.path)
    if rules or boundary.tuple_rules:
        yield "  by hand, as a plain tuple on DeepSpeed's engine, these would fail; here they cross"
        for rule, paths in rules.items():
            yield from _wrapped(f"{rule}: {_listed(paths)}", 4)
        for rule in boundary.tuple_rules:
            yield from _wrapped(rule, 4)


def messages(boundary: Boundary) -> str:
    """Return the number of messages of a boundary and their bytes, beside those of a tuple."""
    if boundary.messages is None or boundary.nbytes is None:
        text = "not packed"
    else:
        (forward, back), (sent, returned) = boundary.messages, boundary.nbytes
        text = f"{forward} messages forward ({size(sent)}), {back} back ({size(returned)})"
    if boundary.tuple_messages is not None:
        text += "; a plain tuple of its tensors: {} and {}".format(*boundary.tuple_messages)
    return text


def boundary_notes(boundary: Boundary) -> Iterator[str]:
    """Yield the sentences below a boundary's table: words that engines differ in, and waits."""
    if any(each.travels == "own batch" for each in boundary.crossings):
        yield OWN_BATCH
    numbers = [each.path for each in boundary.crossings if each.travels == "number"]
    if numbers:
        yield (
            f"{_listed(numbers)}: where a number is another one in each micro-batch, the host "
            'behind the boundary waits for its device once for each; with read="ahead" it does not'
        )


def _prices(boundary: Boundary) -> Iterator[str]:
    if boundary.sent_bytes is not None and boundary.recomputed_bytes is not None:
        yield from _wrapped(
            f"observed by partition: {size(boundary.sent_bytes)} if masks, positions and rotary "
            f"tables are sent, {size(boundary.recomputed_bytes)} if they are recomputed",
            2,
        )


def crossing_cells(crossing: Crossing) -> list[str]:
    """Return a value as cells: path, type, bytes, way, gradient, maker, users."""
    if crossing.dtype is None:
        kind = crossing.kind
    else:
        kind = f"{crossing.dtype}{list(crossing.shape or ())}"
    kind += " (varies)" if crossing.varies else ""
    gradient = "yes" if crossing.gradient else "no"
    if crossing.used is False:
        gradient = "unused"
    return [
        crossing.path,
        kind,
        size(crossing.nbytes) if crossing.dtype is not None else "-",
        crossing.travels,
        gradient if crossing.dtype is not None else "-",
        "input" if crossing.made_by is None else f"stage {crossing.made_by}",
        ", ".join(map(str, crossing.used_by)),
    ]


def _problems(report: Report) -> Iterator[str]:
    yield from _listed_problems("problems", report.errors)
    if report.warnings:
        yield from ("", *_listed_problems("warnings", report.warnings))


def _listed_problems(title: str, problems: Sequence[Problem]) -> Iterator[str]:
    yield title if problems else f"no {title}"
    for stage, fault, remedy in problems:
        where = "all stages" if stage is None else f"stage {stage}"
        yield from _wrapped(f"{where}: {fault}", 2)
        if remedy:
            yield from _wrapped(f"→ {remedy}", 4)


def _listed(paths: Sequence[str]) -> str:
    names = list(dict.fromkeys(paths))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]], right: set[int]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
