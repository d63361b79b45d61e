"""Refuses a precision in which a model was not observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["refuse_other_precision"]

_PRECISIONS = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16}


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
