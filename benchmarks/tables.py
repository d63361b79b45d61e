"""Results as plain tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.environment import environment
from benchmarks.results import LABELS, Report, Result, Row
from benchmarks.road import Crossing

__all__ = ["ADVICE", "as_text"]

ADVICE = "Quote ratios, not times: times change with the machine and its load, ratios much less."

RATIO = "CPU time of send and receive, contender / pipecodec steady"


def as_text(report: Report) -> str:
    """Return a table for each structure, then those of first frames, of scaling, of all ratios."""
    scaling = report.results.get("scaling", [])
    structures = [
        result
        for part, results in report.results.items()
        for result in results
        if part != "scaling"
    ]
    parts = [
        "\n".join(f"{key}: {value or 'not installed'}" for key, value in environment().items()),
        f"Medians over the rounds: CPU time of one thread, us a call.\n{ADVICE}",
        *([_road_table(report.road)] if report.road else []),
        "\n".join(f"{contender.NAME}: {contender.NOTE}" for contender in CONTENDERS),
        *(_structure_table(result, report.missing) for result in structures),
        "First frame: a codec that has seen nothing yet; us\n"
        + _first_frames([*structures, *scaling]),
    ]
    if scaling:
        parts.append(f"Scaling: send and receive, us, by leaves\n{_matrix(scaling, _time)}")
        parts.append(f"Scaling: {RATIO}\n{_matrix(scaling, _ratio)}")
    if structures:
        names = [f"{result.structure.name} {result.structure.description}" for result in structures]
        parts.append(f"{RATIO}\n{_matrix(structures, _ratio)}\n{'; '.join(names)}")
    if reasons := _reasons(report.missing, [*structures, *scaling]):
        parts.append(reasons)
    return "\n\n".join([*parts, ADVICE])


def _road_table(crossings: Sequence[Crossing]) -> str:
    lines = [["", "pipecodec", "by hand", "ratio"]]
    for each in crossings:
        label = f"{each.leaves:3} leaves: {each.measure}"
        times = [f"{time:.2f}" for time in (each.ours_us, each.by_hand_us)]
        lines.append([label, *times, _short(each.ratio)])
    title = "Road: leaves of 64 float32 with gradients; by hand are torch.cat, split and clone; us"
    return f"{title}\n{_aligned(lines)}"


def _structure_table(result: Result, missing: dict[str, str]) -> str:
    structure = result.structure
    lines = [["", "send", "receive", "sum", "/ steady", "/ changing"]]
    for row in result.rows:
        times = [f"{side.median:.2f}" for side in (row.send, row.receive, row.sum)]
        ratios = [_short(result.ratio(row, mode)) for mode in ("steady", "changing")]
        lines.append([row.label, *times, *ratios])
    lines += [[name, *"-----"] for name in {**missing, **result.refused}]
    title = f"{structure.name}  {structure.description}"
    return (
        f"{title}  (frame: {result.frame_bytes} bytes; {result.rounds} rounds)\n{_aligned(lines)}"
    )


def _reasons(missing: dict[str, str], results: Sequence[Result]) -> str:
    """Return for every "-" of a whole contender why it is there."""
    structures: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for reason in result.refused.items():
            structures.setdefault(reason, []).append(result.structure.name)
    lines = [f"missing: {name}: {why}" for name, why in missing.items()]
    for (name, why), names in structures.items():
        lines.append(f"{name} without {'; '.join(names)}: {why}")
    return "\n".join(lines)


def _first_frames(results: Sequence[Result]) -> str:
    lines = [["", "send", "receive", "sum", "steady sum", "/ steady", "- 3 steady"]]
    for result in results:
        steady, first = result.ours("steady"), result.ours("first")
        sides = [f"{side.median:.2f}" for side in (first.send, first.receive, first.sum)]
        beyond = first.sum.median - 3 * steady.sum.median
        rest = [f"{steady.sum.median:.2f}", _short(result.ratio(first, "steady")), f"{beyond:.2f}"]
        lines.append([result.structure.name, *sides, *rest])
    return _aligned(lines)


def _matrix(results: Sequence[Result], cell: Callable[[Result, Row], str]) -> str:
    """Return a line for each contender and mode, a column for each structure."""
    lines = [["", *(result.structure.name for result in results)]]
    columns = [{row.label: cell(result, row) for row in result.rows} for result in results]
    for label in LABELS:
        cells = [column.get(label, "-") for column in columns]
        # A mode that none of the structures has needs no line; a contender's absence does.
        if not (label.startswith(OURS.NAME) and set(cells) == {"-"}):
            lines.append([label, *cells])
    return _aligned(lines)


def _time(_result: Result, row: Row) -> str:
    return f"{row.sum.median:,.2f}" if row.sum.median < 100 else f"{row.sum.median:,.0f}"


def _ratio(result: Result, row: Row) -> str:
    return _short(result.ratio(row, "steady"))


def _short(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3g}" if ratio < 100 else f"{ratio:,.0f}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        rows.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(rows)
