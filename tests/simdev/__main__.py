"""Command line: ``python -m tests.simdev``, copies, waits and launches of a steady state."""

from __future__ import annotations

from benchmarks.realistic import realistic
from benchmarks.structures import synthetic

from . import load
from .steady import WAYS, steady_counts

__all__ = ["table"]

ROWS = [*synthetic(), *(structure for structure in realistic() if structure.name == "R3")]
COUNTED = ("host to device", "device to host", "device to host bytes", "sync", "kernel", "launch")


def table() -> str:
    """Return it as Markdown."""
    device = load()
    lines = [
        "| | | pack: to device | to host | waits | launches "
        "| unpack: to device | to host (bytes) | waits | launches |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for structure in ROWS:
        for way in WAYS:
            sending, receiving = steady_counts(device, way, structure.value)
            cells = []
            for counted in (sending, receiving):
                there, back, nbytes, waits, *kernels = (counted.get(each, 0) for each in COUNTED)
                moved = f"{back} ({nbytes:,})" if back else "0"
                cells += [str(there), moved, str(waits), str(sum(kernels))]
            first = f"{structure.name} {structure.description}" if way == "slots" else ""
            lines.append(f"| {first} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
