"""The scaling part as a picture; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.contenders import OURS
from benchmarks.results import LABELS, Result

__all__ = ["plot"]


def plot(scaling: Sequence[Result], path: Path) -> None:
    """Draw the time of send and receive over the number of leaves, both axes logarithmic.

    Args:
        scaling: one result for each number of leaves.
        path: the picture's file; its ending names the format.
    """
    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for label in LABELS:
        rows = [(result.tensors, row) for result in scaling for row in result.rows]
        points = [(tensors, row.sum.median) for tensors, row in rows if row.label == label]
        if not points:
            continue
        style: dict[str, Any] = {"marker": ".", "linewidth": 1}
        if label.startswith(OURS.NAME):
            style = {"marker": "o", "linewidth": 2.5, "color": "black"}
            style["linestyle"] = "-" if label.endswith("steady") else "--"
        axes.loglog(*zip(*points, strict=True), label=label, **style)
    axes.set_xlabel("leaves")
    axes.set_ylabel("CPU time of send and receive, µs")
    axes.grid(True, which="major", alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path)
