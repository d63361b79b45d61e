"""``pipecodec demo``: a training in a pipeline beside the same in one process."""

from __future__ import annotations

from typing import Any

import click

from pipecodec.demo.device import DEVICES
from pipecodec.demo.settings import BLOCKS, ENGINES, TITLES, Settings

from .endings import Unusable, debug_option

__all__ = ["demo"]


@click.command(context_settings={"show_default": True})
@click.option("--model", type=click.Choice(list(TITLES)), default=Settings.model)
@click.option(
    "--stages",
    type=click.IntRange(2, BLOCKS),
    default=Settings.stages,
    help="Number of pipeline stages, each in a process of its own.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=Settings.steps, help="Optimizer steps."
)
@click.option(
    "--attention",
    type=click.Choice(["sdpa", "eager"]),
    default=Settings.attention,
    help="sdpa sends a bool mask, eager a float32 one.",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=Settings.device,
    help="auto takes a GPU where there is one: one for each process over NCCL, or fewer that they "
    "share over gloo.",
)
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default=Settings.engine,
    help="DeepSpeed's pipeline engine, or torch.distributed.pipelining.",
)
@click.option(
    "--tied",
    is_flag=True,
    help="Share one weight between the first and the last stage: embedding and output head.",
)
@click.option(
    "--by-hand",
    is_flag=True,
    help="Take stages that were made by hand, instead of cutting the model by observing it.",
)
@debug_option
def demo(**chosen: Any) -> int:
    """Train a small model in a pipeline of processes, and again in one process, and compare.

    \b
    Exit codes: 0 both trainings agree; 1 they differ; 2 one could not run.
    """
    from pipecodec.demo.run import missing_packages, run

    settings = Settings(**chosen)
    if missing := missing_packages(settings):
        raise Unusable(
            f"the demo needs {' and '.join(missing)}; run: pip install 'pipecodec[demo]'"
        )
    return run(settings)
