"""Command line: ``python -m benchmarks.boundary``."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.boundary.crossing import BY_HAND, WRAPPED, Crossing

__all__ = ["main"]

SIZES = {"small hidden state, 4 × 256": (4, 256), "64 MB hidden state, 2048 × 8192": (2048, 8192)}
ROUNDS = {"small": 4000, "64": 20}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what a micro-batch costs at one boundary, wrapped and by hand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boundary", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it runs")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    for title, shape in SIZES.items():
        batch = torch.randn(shape), torch.ones(8, dtype=torch.bool)
        crossings = {"by hand": BY_HAND(batch), "wrapped": WRAPPED(batch)}
        seconds = _seconds(crossings, 2 if quick else ROUNDS[title.split()[0]])
        peaks = {name: _peak(crossing) for name, crossing in crossings.items()}
        megabytes = batch[0].numel() * 4 / 2**20
        print(title)
        for name in crossings:
            print(
                f"  {name:8} {seconds[name] * 1e6:12,.0f} µs CPU for each micro-batch, "
                f"{peaks[name]:6.0f} MiB at most on top"
            )
        print(
            f"  wrapped / by hand: time {seconds['wrapped'] / seconds['by hand']:.2f}, "
            f"memory +{max(0.0, peaks['wrapped'] - peaks['by hand']) / megabytes:.2f} hidden states"
        )


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


if __name__ == "__main__":
    main()
