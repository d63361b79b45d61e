"""Microbenchmarks: what a boundary costs in pipecodec and in what one might use instead."""

from __future__ import annotations

__all__: list[str] = []
