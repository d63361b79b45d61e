"""The command and its subcommands."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .. import __version__
from .demo import demo
from .doctor import doctor
from .endings import Command
from .inspect import inspect

__all__ = ["command", "main"]


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="pipecodec %(version)s")
def command() -> None:
    """Carry any value between pipeline stages: report on a cut, read a frame, run a demo.

    \b
    Exit codes: 0 all is well, warnings included; 1 problems were found, the frame
    is broken, or the model fails; 2 wrong usage, or something is missing; 130 Ctrl-C.
    """


command.add_command(doctor)
command.add_command(inspect)
command.add_command(demo)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments` (None: those of the process), and end the process."""
    command.main(args=arguments, prog_name="pipecodec")
