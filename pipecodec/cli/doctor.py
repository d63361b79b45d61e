"""``pipecodec doctor``: cuts a model, runs its stages, and reports."""

from __future__ import annotations

import click

from .endings import debug_option

__all__ = ["doctor"]


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@debug_option
def doctor(function: str) -> int:
    """Cut a model into stages and report."""
    return 0
