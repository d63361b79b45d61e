"""Command line: ``python -m benchmarks.gpu``, the cost of a boundary on a GPU and its host."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipecodec import Codec

__all__ = ["main"]

Call = Callable[[], Any]

SIZES = {
    "1 leaf of 64 MB": [2**24],
    "24 leaves of 1 MB": [2**18] * 24,
    "300 leaves of 4 KB": [2**10] * 300,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both directions on a GPU, by its own events, beside torch's operations."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it runs")
    parser.add_argument("--device", default="cuda", help="'cpu' only shows that it runs")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "there is no GPU here\n")
    device = torch.device(options.device)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device), "torch", torch.__version__)
    for title, sizes in SIZES.items():
        print(title)
        # bfloat16, since a lone float32 leaf is not copied.
        leaves = [torch.zeros(2 * size, dtype=torch.bfloat16, device=device) for size in sizes]
        calls = _calls([leaf.requires_grad_() for leaf in leaves])
        times = _times(calls, device, 2 if options.quick else 200)
        moved = 2 * 4 * sum(sizes)  # read and written
        for name, (on_device, on_host) in times.items():
            speed = f"{moved / on_device / 1e9:8.0f} GB/s" if name != "unchanged frame" else ""
            print(f"  {name:16} {on_device * 1e6:10.1f} µs, host {on_host * 1e6:8.1f} µs {speed}")


def _calls(leaves: list[Tensor]) -> dict[str, Call]:
    sender: Any = Codec(transport="tunnel", name="sender")
    receiver: Any = Codec(transport="tunnel", name="receiver")
    slots = Codec()
    value = {"leaves": leaves, "step": 7, "cache": None}
    received = tuple(t.detach() for t in sender.send(value, None))
    flat = [leaf.detach().view(-1) for leaf in leaves]
    joined = torch.cat(flat)
    lengths = [len(each) for each in flat]
    return {
        "send": lambda: sender.send(value, None),
        "torch.cat": lambda: torch.cat(flat),
        "receive": lambda: receiver.receive(received),
        "split and clone": lambda: [part.clone() for part in joined.split(lengths)],
        "unchanged frame": lambda: slots.pack(value),
    }


def _times(
    calls: dict[str, Call], device: torch.device, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of each call, on the device and on the host; the calls take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_time(call, device))
    return {
        name: (statistics.median(d for d, _ in own), statistics.median(h for _, h in own))
        for name, own in times.items()
    }


def _time(call: Call, device: torch.device) -> tuple[float, float]:
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        passed = time.perf_counter() - began
        return passed, passed
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    start.record()
    call()
    end.record()
    passed = time.perf_counter() - began
    end.synchronize()
    return start.elapsed_time(end) / 1e3, passed


if __name__ == "__main__":
    main()
