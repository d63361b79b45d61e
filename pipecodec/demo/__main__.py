"""``python -m pipecodec.demo``: train a small model in a pipeline, and again in one process."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence

from pipecodec.demo.device import DEVICES, place
from pipecodec.demo.launch import Rank, run_ranks
from pipecodec.demo.report import LIMIT, TIED_LIMIT, copy_difference, loss_difference, summary
from pipecodec.demo.settings import BLOCKS, ENGINES, TITLES, Settings
from pipecodec.demo.train import Progress, Trained, train_pipeline, train_whole

__all__ = ["main"]

_ABOUT = "Train a small model in a pipeline of processes, and again in one, and compare."

_PATIENCE = 3600.0
"""Seconds after which a training that has not ended is taken to hang."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status.

    0: both trainings agree; 1: their losses differ by more than 1e-6 (1e-3 with tied weights), or
    copies of a tied weight differ; 2: one could not run; 130: interrupted.
    """
    settings = _settings(arguments)
    needed = ["deepspeed", "transformers"] if settings.engine == "deepspeed" else ["transformers"]
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        print(f"the demo needs {' and '.join(missing)}; run: pip install 'pipecodec[demo]'")
        return 2
    try:
        placement = place(settings.device, settings.stages, settings.engine)
    except ValueError as error:
        print(error)
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
        _say("\ninterrupted; all processes have been ended")
        return 130
    except ChildProcessError as error:
        _say(f"\n{error}")
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


def _settings(arguments: Sequence[str] | None) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m pipecodec.demo", description=_ABOUT)
    parser.add_argument(
        "--model", choices=list(TITLES), default=Settings.model, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--stages",
        type=int,
        choices=range(2, BLOCKS + 1),
        default=Settings.stages,
        help="number of pipeline stages, each in a process of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=Settings.steps, help="optimizer steps (default: %(default)s)"
    )
    parser.add_argument(
        "--attention",
        choices=["sdpa", "eager"],
        default=Settings.attention,
        help="sdpa sends a bool mask, eager a float32 one (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default=Settings.device,
        help="auto takes a GPU where there is one: one for each process over NCCL, or fewer that "
        "they share over gloo (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=list(ENGINES),
        default=Settings.engine,
        help="DeepSpeed's pipeline engine, or torch.distributed.pipelining (default: %(default)s)",
    )
    parser.add_argument(
        "--tied",
        action="store_true",
        help="share one weight between the first and the last stage: embedding and output head",
    )
    parser.add_argument(
        "--by-hand",
        action="store_true",
        help="take stages that were made by hand, instead of cutting the model by observing it",
    )
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1:
        parser.error(f"--steps {chosen.steps}: give at least 1")
    return Settings(**vars(chosen))


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


if __name__ == "__main__":
    sys.exit(main())
