"""The ratios as a picture; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.training.cases import ENGINES, MODELS
from benchmarks.training.contenders import ORIGIN, PIPECODEC, SAME_STAGES
from benchmarks.training.results import Quartiles, Row

__all__ = ["plot"]

COLOURS = {PIPECODEC: "#0b6e4f", SAME_STAGES: "#6aa5d8", ORIGIN: "#b5541c"}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw each contender's wall and CPU time over that of the stages by hand, with quartiles.

    Args:
        rows: of all cases.
        path: the picture's file; its ending names the format.
    """
    sizes = list(dict.fromkeys(row.case.size.name for row in rows))
    labels = {size: _labels(rows, size) for size in sizes}
    tallest = max(map(len, labels.values()))
    figure = Figure(figsize=(10, 1.2 + 0.5 * tallest * len(sizes)), layout="constrained")
    grid = figure.subplots(len(sizes), 2, squeeze=False, sharex="row")
    for axes, size in zip(grid, sizes, strict=True):
        for side, kind in zip(axes, ("wall", "cpu"), strict=True):
            _draw(side, [row for row in rows if row.case.size.name == size], labels[size], kind)
            side.set_title(f"{size}: {'wall time' if kind == 'wall' else 'CPU time'} / by hand")
        axes[1].tick_params(labelleft=False)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    # Texts stay texts, and the same figures give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pipecodec"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _labels(rows: Sequence[Row], size: str) -> list[str]:
    return list(dict.fromkeys(_label(row) for row in rows if row.case.size.name == size))


def _label(row: Row) -> str:
    return f"{MODELS[row.case.model]}, {row.case.stages} stages, {ENGINES[row.case.engine]}"


def _draw(axes: Axes, rows: Sequence[Row], labels: Sequence[str], kind: str) -> None:
    axes.axvline(1.0, color="black", linewidth=1)
    for shift, (name, colour) in zip((-0.25, 0.0, 0.25), COLOURS.items(), strict=True):
        for row in rows:
            ratio: Quartiles | None = getattr(row, kind)
            if row.contender != name or ratio is None:
                continue
            place = labels.index(_label(row)) + shift
            axes.plot([ratio.q1, ratio.q3], [place, place], color=colour, linewidth=2)
            axes.plot(ratio.median, place, "o", color=colour)
        axes.plot([], [], "o-", color=colour, label=name)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
