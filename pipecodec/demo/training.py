"""A pipeline's training on one rank, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from pipecodec.demo.crossing import Crossing
    from pipecodec.demo.data import MicroBatch

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """A training that an engine runs, as the demo drives it.

    ``step`` trains on the micro-batches of one step and returns the mean of their losses, on every
    rank; ``module`` holds the parameters of this rank's stage; ``finish`` completes ``crossing``.
    """

    step: Callable[[list[MicroBatch]], float]
    module: nn.Module
    crossing: Crossing
    finish: Callable[[], None]
