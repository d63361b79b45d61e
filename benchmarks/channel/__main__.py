"""Command line: ``python -m benchmarks.channel``."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.channel.cases import CASES, Case
from benchmarks.channel.contenders import OURS
from benchmarks.channel.running import measured
from benchmarks.environment import environment
from pipecodec.demo.launch import run_ranks

__all__ = ["main"]

ROUNDS, QUICK_ROUNDS = 40, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Print latency and CPU time of a message, with ratios to pipecodec."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.channel", description=main.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, without 64 MiB"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything as JSON")
    options = parser.parse_args(arguments)
    report = _measure(CASES[:3], QUICK_ROUNDS) if options.quick else _measure(CASES, ROUNDS)
    for case in report:
        print(f"\n{case['case']}\n{'':28}latency µs    ×   CPU µs, both sides    ×")
        for row in case["rows"]:
            print(
                f"{row['contender']:28}{row['latency_us']:10.0f}{row['latency_ratio']:6.1f}"
                f"{row['cpu_us']:17.0f}{row['cpu_ratio']:10.1f}"
            )
        for name, why in case["missing"].items():
            print(f"{name:28}not measured: {why}")
    if options.json is not None:
        everything = {"environment": environment(), "cases": report}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def _measure(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    ranks = run_ranks(measured, 2, cases, rounds, timeout=1800.0, stop_at_failure=True)
    for rank in ranks:
        if rank.status != "ok":
            raise RuntimeError(f"rank {rank.rank}: {rank.status}\n{rank.detail}")
    report = []
    for case, (first, absent), (second, _) in zip(
        cases, ranks[0].value, ranks[1].value, strict=True
    ):
        rows = {
            name: (
                statistics.median(latency for latency, _ in times),
                statistics.median(
                    a + b for (_, a), (_, b) in zip(times, second[name], strict=True)
                ),
            )
            for name, times in first.items()
        }
        latency, cpu = rows[OURS]
        report.append(
            {
                "case": case.name,
                "missing": absent,
                "rows": [
                    {
                        "contender": name,
                        "latency_us": of[0],
                        "latency_ratio": of[0] / latency,
                        "cpu_us": of[1],
                        "cpu_ratio": of[1] / cpu,
                    }
                    for name, of in rows.items()
                ],
            }
        )
    return report


if __name__ == "__main__":
    main()
