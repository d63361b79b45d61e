"""Results as plain tables and as JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.measure import LOOP_NS, Quartiles, Result, Row

__all__ = ["as_json", "as_text", "environment"]

ADVICE = "Quote ratios, not times: times change with the machine and its load, ratios much less."


def environment() -> dict[str, Any]:
    """Return the processor, the cores open to this process, and the versions compared."""
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "optree": _version("optree"),
        "pipecodec": _version("pipecodec"),
    }


def as_text(results: Sequence[Result], missing: dict[str, str], rounds: int) -> str:
    """Return a table for each structure, then one of all ratios.

    Args:
        results: one for each structure.
        missing: reasons by the names of the contenders that could not be measured.
        rounds: how many rounds were measured.
    """
    parts = [
        "\n".join(f"{key}: {value or 'not installed'}" for key, value in environment().items()),
        f"Medians of {rounds} rounds: CPU time of one thread, us a call.\n{ADVICE}",
        "\n".join(f"{c.NAME}: {c.NOTE}" for c in CONTENDERS),
    ]
    parts += [_structure_table(result, missing) for result in results]
    parts.append("Ratio of the sums, contender / pipecodec steady\n" + _summary(results, missing))
    if missing:
        parts.append("\n".join(f"missing: {name}: {why}" for name, why in missing.items()))
    parts.append(ADVICE)
    return "\n\n".join(parts)


def as_json(results: Sequence[Result], missing: dict[str, str], rounds: int) -> dict[str, Any]:
    """Return everything ``as_text`` shows, and the quartiles, as JSON-ready values."""
    return {
        "environment": environment(),
        "method": {"rounds": rounds, "inner_loop_ns": LOOP_NS, "clock": "thread CPU time"},
        "advice": ADVICE,
        "contenders": {contender.NAME: contender.NOTE for contender in CONTENDERS},
        "missing": missing,
        "structures": [
            {
                "name": result.structure.name,
                "description": result.structure.description,
                "frame_bytes": result.frame_bytes,
                "rows": [_row_json(row, result) for row in result.rows],
            }
            for result in results
        ],
    }


def _row_json(row: Row, result: Result) -> dict[str, Any]:
    def spread(quartiles: Quartiles) -> dict[str, float]:
        return {key: round(value, 4) for key, value in quartiles._asdict().items()}

    return {
        "contender": row.contender,
        "mode": row.mode,
        "send_us": spread(row.send),
        "receive_us": spread(row.receive),
        "sum_us": spread(row.sum),
        "ratio_to_steady": _ratio(row, result, "steady"),
        "ratio_to_changing": _ratio(row, result, "changing"),
    }


def _structure_table(result: Result, missing: dict[str, str]) -> str:
    structure = result.structure
    lines = [["", "send", "receive", "sum", "/ steady", "/ changing"]]
    for row in result.rows:
        times = [f"{side.median:.2f}" for side in (row.send, row.receive, row.sum)]
        ratios = [_short(_ratio(row, result, mode)) for mode in ("steady", "changing")]
        lines.append([_label(row), *times, *ratios])
    lines += [[name, "missing", "", "", "", ""] for name in missing]
    title = f"{structure.name}  {structure.description}  (frame: {result.frame_bytes} bytes)"
    return f"{title}\n{_aligned(lines)}"


def _summary(results: Sequence[Result], missing: dict[str, str]) -> str:
    steady = [contender.NAME for contender in CONTENDERS if contender is not OURS]
    columns = [f"{OURS.NAME}, changing", *steady]
    lines = [["", *columns]]
    for result in results:
        ratios = {_label(row): _short(_ratio(row, result, "steady")) for row in result.rows}
        cells = ["missing" if c in missing else ratios.get(c, "-") for c in columns]
        lines.append([f"{result.structure.name}  {result.structure.description}", *cells])
    return _aligned(lines)


def _label(row: Row) -> str:
    if row.contender != OURS.NAME:
        return row.contender
    return f"{row.contender}, {row.mode}"


def _ratio(row: Row, result: Result, mode: str) -> float | None:
    for ours in result.rows:
        if ours.contender == OURS.NAME and ours.mode == mode:
            return round(row.sum.median / ours.sum.median, 3)
    return None


def _short(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        rows.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(rows)


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
