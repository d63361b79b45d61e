"""The environment of a measurement: the processor, and the versions compared."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

__all__ = ["PACKAGES", "environment"]

PACKAGES = ("pipecodec", "torch", "deepspeed", "jaxlib", "optree", "msgpack", "msgspec")


def environment() -> dict[str, str | int | None]:
    """Return the processor, the cores open to this process, and versions (None: not installed)."""
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


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
