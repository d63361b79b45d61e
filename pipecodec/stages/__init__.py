"""From modules to stages: what crosses between them, and which weights are one; knows no engine."""

from __future__ import annotations

from .partition import Partition, partition_modules, run_local

__all__ = ["Partition", "partition_modules", "run_local"]
