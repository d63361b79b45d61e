"""Settings of an engine for stages that were cut by observing a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..logger import get_logger
from ..options import BoundaryOptions

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["allow_observed_sizes", "refuse_other_precision"]

logger = get_logger("deepspeed")

_PRECISIONS = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16}


def allow_observed_sizes(
    part: Partition, options: BoundaryOptions, schedule: str
) -> BoundaryOptions:
    """Return the options with ``dynamic_shape`` if other values cross for some kinds of batch.

    Logs on rank 0 that it is turned on, or that it cannot be since ``schedule`` exchanges shapes
    once.
    """
    cut = part.cut
    if cut is None or cut.observations == 1 or cut.alike or options.dynamic_shape:
        return options
    several = (
        f"the model was observed with {cut.observations} kinds of batch, and not the same values "
        f"cross for each"
    )
    if schedule == "dualpipev":
        logger.warning(
            "%s, but DualPipeV exchanges shapes once: a batch of another kind than the first may "
            'be an error; give it batches of one kind, or use schedule="1f1b"',
            several,
            ranks=0,
        )
        return options
    logger.warning("dynamic_shape is turned on: %s", several, ranks=0)
    return replace(options, dynamic_shape=True)


def refuse_other_precision(part: Partition, settings: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if the engine would train an observed model in another precision.

    ``settings`` is DeepSpeed's configuration. The model's casts were observed in its precision.
    """
    if part.cut is None:
        return
    section, wanted = next(
        ((name, dtype) for name, dtype in _PRECISIONS.items() if _enabled(settings.get(name))),
        (None, torch.float32),
    )
    if part.cut.dtype is wanted or (section is None and part.cut.dtype is None):
        return
    trained = _name(wanted) + (" without bf16 and fp16" if section is None else f" with {section}")
    observed = "several dtypes" if part.cut.dtype is None else _name(part.cut.dtype)
    raise ValueError(
        f"the engine trains in {trained}, but the model was observed with parameters of "
        f"{observed}; observe the model in the precision you train in: "
        f"model.to(torch.{_name(wanted)}) before pipecodec.partition"
    )


def _enabled(section: Any) -> bool:
    return isinstance(section, Mapping) and bool(section.get("enabled"))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
