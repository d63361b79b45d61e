"""Lets sizes change where a model was observed with several kinds of batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..logger import get_logger
from ..options import BoundaryOptions

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["allow_observed_sizes"]

logger = get_logger("engine")


def allow_observed_sizes(
    part: Partition, options: BoundaryOptions, *, shapes_once: bool = False
) -> BoundaryOptions:
    """Return the options with ``dynamic_shape`` if other values cross for some kinds of batch.

    Logs on rank 0 that it is turned on, or that it cannot be, with ``shapes_once``: the schedule
    is DeepSpeed's DualPipeV, which exchanges them once.
    """
    cut = part.cut
    if cut is None or cut.observations == 1 or cut.alike or options.dynamic_shape:
        return options
    several = (
        f"the model was observed with {cut.observations} kinds of batch, and not the same values "
        f"cross for each"
    )
    if shapes_once:
        logger.warning(
            "%s, but DualPipeV exchanges shapes once: a batch of another kind than the first may "
            'be an error; give it batches of one kind, or use schedule="1f1b"',
            several,
            ranks=0,
        )
        return options
    logger.warning("dynamic_shape is turned on: %s", several, ranks=0)
    return replace(options, dynamic_shape=True)
