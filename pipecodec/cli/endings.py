"""How the command ends: exit codes, one sentence on stderr, and no traceback without --debug."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

import click

from .terminal import printable, tolerant

__all__ = ["FAILED", "OK", "USAGE", "Command", "Failed", "Unusable", "debug_option", "own_stdout"]

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130
CLOSED_PIPE = 141
"""128 and the number of SIGPIPE, as of a program that this signal ends."""

_LONGEST = 4000
"""Characters of an error's text that are shown."""

F = TypeVar("F", bound=Callable[..., Any])


class Failed(click.ClickException):
    """Problems were found: the model fails, or a frame is broken."""

    exit_code = FAILED


class Unusable(click.ClickException):
    """Wrong usage that click cannot see, or something that is missing."""

    exit_code = USAGE


def debug_option(function: F) -> F:
    """Add ``--debug``, which shows the traceback of an error, to a subcommand."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(function)


def _remember_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta["pipecodec.debug"] = True


class Command(click.Group):
    """A group of commands that ends as the documentation says, however it ends."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command and raise SystemExit with its exit code."""
        _open_missing_streams()
        tolerant(sys.stdout)
        tolerant(sys.stderr)
        given = list(sys.argv[1:] if args is None else args)
        try:
            ended = super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            code = ended if isinstance(ended, int) else OK
        except BrokenPipeError:
            _drop_stdout()
            code = CLOSED_PIPE
        except BaseException as error:
            code = _told(error, "--debug" in given)
        raise SystemExit(code)


def _told(error: BaseException, debug: bool) -> int:
    """Write the error's sentence to stderr, and return the exit code."""
    if debug and not isinstance(error, (click.exceptions.Exit, SystemExit)):
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.Exit):
        return int(error.exit_code)
    if isinstance(error, SystemExit):  # of click's completion
        return error.code if isinstance(error.code, int) else OK
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _say("interrupted", INTERRUPTED)
    if isinstance(error, click.UsageError):
        error.show()
        return USAGE
    if isinstance(error, click.ClickException):
        return _say(error.format_message(), error.exit_code)
    if isinstance(error, MemoryError):
        return _say("there is not enough memory", FAILED)
    if isinstance(error, OSError):  # of writing: whatever is read is handled where it is read
        _drop_stdout()
        return _say(f"cannot write the output: {error.strerror or error}", USAGE)
    return _say(
        f"this is a bug of pipecodec: {type(error).__name__}: {error}; please report it with the "
        "traceback that --debug shows",
        FAILED,
    )


def _say(text: str, code: int) -> int:
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or a full disk
        print(printable(text if code == INTERRUPTED else f"Error: {text}"), file=sys.stderr)
        sys.stderr.flush()
    return code


def _open_missing_streams() -> None:
    """Give the process the streams that it was started without (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _drop_stdout() -> None:
    """Let the flush at the end of the process succeed."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


@contextlib.contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Give a command's own stdout, and send all that others print to stderr.

    Others are the user's model, the libraries that it uses, and code of theirs that runs when the
    process ends: of a process's own stdout the descriptor is changed too, and for good.
    """
    output: TextIO = sys.stdout
    if output is sys.__stdout__:
        with contextlib.suppress(OSError, ValueError):
            number = output.fileno()
            output.flush()
            own = os.dup(number)
            os.dup2(sys.stderr.fileno(), number)
            output = open(own, "w", encoding=output.encoding)  # noqa: SIM115
            tolerant(output)
    with contextlib.redirect_stdout(sys.stderr):
        yield output
        output.flush()
