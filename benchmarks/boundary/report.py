"""The parts as plain tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.boundary import storing
from benchmarks.boundary.engines import MICRO_BATCHES
from benchmarks.boundary.ways import BY_HAND
from benchmarks.environment import environment
from benchmarks.tables import ADVICE

__all__ = ["as_text"]

MEGABYTE = 2**20


def as_text(report: dict[str, Any]) -> str:
    """Return a table for each part that was run."""
    shown: dict[str, Callable[[Any], str]] = {
        "time": lambda found: "\n\n".join(map(_times, found)),
        "counts": _counts,
        "copies": _copies,
        "peaks": _peaks,
    }
    about = "\n".join(f"{key}: {value}" for key, value in environment().items())
    parts = [show(report[part]) for part, show in shown.items() if part in report]
    return "\n\n".join([about, ADVICE, *parts])


def _times(found: dict[str, Any]) -> str:
    title = (
        f"{found['case']}, {found['stages']} stages: us of the stage's thread for each "
        f"micro-batch; medians of {found['steps']} steps of {MICRO_BATCHES}"
    )
    head = ("", "forward", "backward", "messages", "sum", "/ by hand", "added", "step /")
    lines = [_line(*head)]
    for row in found["rows"]:
        numbers = [row[f"{name}_us"] for name in ("forward", "backward", "messages", "sum")]
        lines.append(
            _line(
                f"{row['way']}, stage {row['stage']}",
                *(f"{number:,.0f}" for number in numbers),
                f"{row['ratio_to_by_hand']:.2f}",
                f"{row['added_us']:,.0f}",
                f"{row['step_ratio_to_by_hand']:.2f}",
            )
        )
    return "\n".join([title, *lines])


def _counts(found: Sequence[dict[str, Any]]) -> str:
    parts = [
        "For each micro-batch: messages at a boundary, and calls that would wait, by stage; "
        "by hand all of them, in the other ways those beyond"
    ]
    for case in found:
        parts.append(f"{case['case']}, {case['stages']} stages")
        for row in case["rows"]:
            waits = row["waits"] if row["way"] == BY_HAND else row["added_waits"]
            listed = "; ".join(_listed(stage) for stage in waits)
            messages = f"{row['forward']:3.0f} forward {row['back']:3.0f} back"
            parts.append(f"  {row['way']:12}{messages}   waits: {listed}")
    return "\n".join(parts)


def _listed(waits: dict[str, float]) -> str:
    return ", ".join(f"{number:g} {call}" for call, number in waits.items()) or "0"


def _copies(found: Sequence[dict[str, Any]]) -> str:
    lines = ["MiB copied in packing and unpacking", _line("", *storing.SIDES, width=14)]
    for case in found:
        cells = [f"{case[side] / MEGABYTE:.0f}" for side in storing.SIDES]
        lines.append(_line(case["case"], *cells, width=14))
    return "\n".join(lines)


def _peaks(found: Sequence[dict[str, Any]]) -> str:
    lines = ["Peak memory of a step in MiB, by stage: by hand + added by pipecodec"]
    for case in found:
        cells = [
            f"{hand / MEGABYTE:.0f} + {added / MEGABYTE:.0f}"
            for hand, added in zip(case["by_hand"], case["added"], strict=True)
        ]
        lines.append(_line(f"{case['case']}, {case['stages']} stages", *cells, width=14))
    return "\n".join(lines)


def _line(label: str, *cells: str, width: int = 11) -> str:
    return f"{label:36}" + "".join(f"{cell:>{width}}" for cell in cells)
