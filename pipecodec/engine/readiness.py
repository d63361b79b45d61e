"""Whether a partition's stages can be run as they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..no_memory import without_memory

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["refuse_other_dtype", "without_memory_in"]


def without_memory_in(part: Partition, stages: Collection[int]) -> str | None:
    """Return the reason why these stages cannot run yet, a tensor without memory; None if none."""
    for stage in sorted(stages):
        module = part.stages[stage]
        for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if without_memory(tensor):
                kind = "on the meta device" if tensor.is_meta else "a fake tensor"
                return (
                    f"{path} of stage {stage} is {kind}; give the stages that a rank runs memory "
                    f"and values first: pipecodec.load_stage or materialize_stage, or "
                    f"to_empty(device=...) and load_state_dict(...)"
                )
    return None


def refuse_other_dtype(part: Partition, stage: int) -> None:
    """Raise ``ValueError`` if a stage has another dtype than the model that was observed.

    The model's own casts were observed in its precision.
    """
    observed = None if part.cut is None else part.cut.dtype
    if observed is None:
        return
    for path, parameter in part.stages[stage].named_parameters():
        if parameter.is_floating_point() and parameter.dtype is not observed:
            found, wanted = (str(d).removeprefix("torch.") for d in (parameter.dtype, observed))
            raise ValueError(
                f"{path} of stage {stage} is {found}, but the model was observed with parameters "
                f"of {wanted}; observe the model in the precision you train in: "
                f"model.to(torch.{found}) before pipecodec.partition"
            )
