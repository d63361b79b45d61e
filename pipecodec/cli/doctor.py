"""``pipecodec doctor``: cuts a model, runs its stages, and reports."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..errors import PartitionError
from .endings import FAILED, OK, Failed, Unusable, debug_option, own_stdout
from .named import find, model_and_batch, said
from .report import show
from .terminal import console

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["doctor"]


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option(
    "--stages",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Number of stages.  [default: 2, or those of a graph that is split already]",
)
@click.option(
    "--micro-batches",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Micro-batches of the schedule whose bubble is told.  [default: 4 for each stage]",
)
@click.option(
    "--optimizer",
    default="adamw",
    show_default=True,
    metavar="NAME",
    help="Optimizer whose memory is told: sgd, adamw, lion, ..., or the number of its states.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, and nothing else.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page with a picture of the pipeline, too.",
)
@debug_option
def doctor(
    function: str,
    stages: int | None,
    micro_batches: int | None,
    optimizer: str,
    as_json: bool,
    html: Path | None,
) -> int:
    """Cut a model into stages, run them, and report all that crosses and all that will fail.

    FUNCTION takes nothing and returns (model, kwargs): a torch.nn.Module, and a batch as
    model(**kwargs) takes it. MODULE is looked for in the current folder too, as by python -m.
    All that the model prints goes to stderr.

    \b
    Exit codes: 0 no problems (warnings may be there); 1 problems, or the model
    fails or cannot be cut; 2 wrong usage.
    """
    if html is not None:
        html = html.absolute()  # the model's code may go to another folder
        _check_folder(html)
    with own_stdout() as output:
        states = _optimizer(optimizer)
        with _progress() as step:
            step(f"loading {function}")
            model, batch = model_and_batch(find(function), function)
            settings = {"micro_batches": micro_batches, "optimizer": states}
            report = _report(model, batch, stages, settings, step)
        if html is not None:
            _write(html, report, function)
        if as_json:
            json.dump(report.to_dict(), output, indent=2, allow_nan=False)
            output.write("\n")
        else:
            show(report, console(output))
    return FAILED if report.errors else OK


def _optimizer(text: str) -> str | int:
    from ..report.memory import check_optimizer

    given = int(text) if text.isascii() and text.isdigit() else text
    try:
        check_optimizer(given)
    except ValueError as error:
        raise Unusable(f"--optimizer {text}: {error}") from error
    return given


def _report(
    model: Any,
    batch: dict[str, Any],
    stages: int | None,
    settings: dict[str, Any],
    step: Callable[[str], None],
) -> Report:
    import pipecodec

    from ..stages.split_graph import is_split_graph

    split = is_split_graph(model)
    count = None if split else stages or 2
    try:
        step("observing the model and cutting it")
        part = pipecodec.partition(model, kwargs=batch, n_stages=count)
        if stages not in (None, len(part.stages)):
            raise Unusable(f"--stages {stages}: the graph is split into {len(part.stages)} already")
        step("running the stages")
        return pipecodec.doctor(part, **settings, **batch)
    except (KeyboardInterrupt, Unusable):
        raise
    except PartitionError as error:
        reason, *_ = str(error).split(" / ")
        if f"too few for {count} stages" in reason:
            raise Unusable(f"--stages {count}: {reason.partition(', or name')[0]}") from error
        raise Failed(f"the model cannot be cut: {error}") from error
    except BaseException as error:  # such as SystemExit
        raise Failed(f"the model {said(error)}") from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the current step on stderr, if that is a terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console(sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as shown:
        task = shown.add_task("")
        yield lambda text: shown.update(task, description=text)


def _check_folder(file: Path) -> None:
    folder = file.parent
    if not folder.is_dir():
        raise Unusable(f"cannot write {file}: there is no folder {folder}")
    if not file.exists() and not os.access(folder, os.W_OK):
        raise Unusable(f"cannot write {file}: the folder {folder} is not writable")


def _write(file: Path, report: Report, function: str) -> None:
    from ..report.page import as_html

    try:
        file.write_text(as_html(report, function), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise Unusable(f"cannot write {file}: {error.strerror or error}") from error
