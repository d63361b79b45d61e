"""Makes stages of modules: the values that cross, the tied weights. Knows no engine."""

from __future__ import annotations

from .partition import Partition, partition_modules, run_local

__all__ = ["Partition", "partition_modules", "run_local"]
