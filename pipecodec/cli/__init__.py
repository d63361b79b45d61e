"""The command ``pipecodec``; click and rich are imported here, and nowhere else in the package."""

from __future__ import annotations

from .command import command, main

__all__ = ["command", "main"]
