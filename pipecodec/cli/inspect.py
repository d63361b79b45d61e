"""``pipecodec inspect``: the bytes of a frame as a tree."""

from __future__ import annotations

import click

from .endings import debug_option

__all__ = ["inspect"]


@click.command()
@click.argument("file")
@debug_option
def inspect(file: str) -> int:
    """Show the raw bytes of a frame as a tree."""
    return 0
