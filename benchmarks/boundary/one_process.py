"""One boundary in this process, without an engine: CPU time and the process's peak memory."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from benchmarks.boundary.crossing import BY_HAND, WRAPPED, Crossing

__all__ = ["as_text", "measure"]

SIZES = {"small hidden state, 4 × 256": (4, 256), "64 MB hidden state, 2048 × 8192": (2048, 8192)}
ROUNDS = {"small": 4000, "64": 20}
NAMES = ("by hand", "wrapped")


def measure(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Return seconds for each micro-batch and MiB on top, by size and way."""
    torch.set_num_threads(1)
    found = {}
    for title, shape in SIZES.items():
        batch = torch.randn(shape), torch.ones(8, dtype=torch.bool)
        crossings = {"by hand": BY_HAND(batch), "wrapped": WRAPPED(batch)}
        seconds = _seconds(crossings, 2 if quick else ROUNDS[title.split()[0]])
        found[title] = {
            name: {"seconds": seconds[name], "peak_mib": _peak(crossing)}
            for name, crossing in crossings.items()
        }
    return found


def as_text(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a paragraph for each size."""
    lines = []
    for title, ways in found.items():
        rows, columns = SIZES[title]
        megabytes = rows * columns * 4 / 2**20
        lines.append(title)
        lines += [
            f"  {name:8} {ways[name]['seconds'] * 1e6:12,.0f} µs CPU for each micro-batch, "
            f"{ways[name]['peak_mib']:6.0f} MiB at most on top"
            for name in NAMES
        ]
        hand, wrapped = (ways[name] for name in NAMES)
        more = max(0.0, wrapped["peak_mib"] - hand["peak_mib"]) / megabytes
        lines.append(
            f"  wrapped / by hand: time {wrapped['seconds'] / hand['seconds']:.2f}, "
            f"memory +{more:.2f} hidden states"
        )
    return "\n".join(lines)


def _seconds(crossings: dict[str, Crossing], rounds: int) -> dict[str, float]:
    """Median CPU time of each, the contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in crossings}
    for crossing in crossings.values():
        crossing()
    for _ in range(rounds):
        for name, crossing in crossings.items():
            began = time.thread_time()
            crossing()
            times[name].append(time.thread_time() - began)
    return {name: statistics.median(own) for name, own in times.items()}


def _peak(crossing: Crossing) -> float:
    """MiB that the process holds at most during one call, beyond what it held before."""
    crossing()
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak
    before = _status("VmRSS")
    crossing()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
