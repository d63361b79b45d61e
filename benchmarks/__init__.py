"""Microbenchmarks: the cost of a boundary in pipecodec and in its alternatives."""

from __future__ import annotations

__all__: list[str] = []
