"""The demo: train a small model in a pipeline, and again in one process, and compare."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

from pipecodec.demo.device import place
from pipecodec.demo.launch import Rank, run_ranks
from pipecodec.demo.report import LIMIT, TIED_LIMIT, copy_difference, loss_difference, summary
from pipecodec.demo.settings import BLOCKS, ENGINES, TITLES, Settings
from pipecodec.demo.train import Progress, Trained, train_pipeline, train_whole

__all__ = ["missing_packages", "run"]

_PATIENCE = 3600.0
"""Seconds after which a training that has not ended is taken to hang."""


def missing_packages(settings: Settings) -> list[str]:
    """Return the names of the packages that such a training needs and that are not installed."""
    needed = ["deepspeed", "transformers"] if settings.engine == "deepspeed" else ["transformers"]
    return [name for name in needed if not importlib.util.find_spec(name)]


def run(settings: Settings) -> int:
    """Run the demo, which shows its progress on stdout, and return its exit status.

    0: both trainings agree; 1: their losses differ by more than 1e-6 (1e-3 with tied weights), or
    copies of a tied weight differ; 2: one could not run; 130: interrupted.
    """
    try:
        placement = place(settings.device, settings.stages, settings.engine)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    _say(
        f"{TITLES[settings.model]}, {BLOCKS} blocks with random weights, learns to predict the "
        "text of the Python standard library byte by byte.\n"
        f"A step is {settings.micro_batches} micro-batches of {settings.batch} windows of "
        f"{settings.length // 2} to {settings.length - 1} bytes, padded to {settings.length}.\n\n"
        f"{settings.stages} stages in {settings.stages} processes, {ENGINES[settings.engine]} on "
        f"{placement}:"
    )
    try:
        stages = _train(train_pipeline, settings.stages, settings)
        _say("\nThe same training in one process, the model in one piece:")
        (whole,) = _train(train_whole, 1, settings)
    except KeyboardInterrupt:
        print("interrupted; all processes have been ended", file=sys.stderr)
        return 130
    except ChildProcessError as error:
        print(f"Error: a process of the training failed\n{error}", file=sys.stderr)
        return 2
    _say(f"\non                               {placement}\n" + summary(stages, whole))
    limit = TIED_LIMIT if settings.tied else LIMIT
    if not loss_difference(stages, whole) <= limit:
        _say(f"\nThe two trainings differ: more than {limit:.0e} in loss.")
        return 1
    if copy_difference(stages):
        _say("\nThe copies of a tied weight differ.")
        return 1
    return 0


def _train(
    function: Callable[[Rank, Settings], Trained], processes: int, settings: Settings
) -> list[Trained]:
    """Run a training and show its progress; raise ``ChildProcessError`` if a process fails."""

    def show(_rank: int, progress: Progress) -> None:
        number = f"{progress.step + 1:>{len(str(settings.steps))}}/{settings.steps}"
        _say(
            f"  step {number}   loss {progress.loss:.4f}   "
            f"{progress.tokens_per_second:,.0f} tokens/s"
        )

    outcomes = run_ranks(
        function,
        processes,
        settings,
        timeout=_PATIENCE,
        stop_at_failure=True,
        on_message=show,
        device=settings.device,
    )
    failed = [outcome for outcome in outcomes if outcome.status not in ("ok", "killed")]
    if failed:
        raise ChildProcessError(
            "\n".join(f"process {o.rank}: {o.status}\n{o.detail}" for o in failed)
        )
    return [outcome.value for outcome in outcomes]


def _say(text: str) -> None:
    print(text, flush=True)
