"""All that differs between releases of torch in a stage; 2.13 to 2.15 are known here."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

__all__ = ["begin_fsdp", "group_between", "keep_for_backward"]


def keep_for_backward(
    stage: Any, chunk: int, outputs: tuple[Any, ...], inputs: list[torch.Tensor]
) -> None:
    """Put a micro-batch's outputs and inputs where torch's backward pass looks for them."""
    if hasattr(stage, "_forward_chunk_states"):  # from 2.15 on
        state = stage._make_forward_chunk_state(outputs, inputs)
        stage._forward_chunk_states[chunk] = state
    else:
        stage.fwd_cache[chunk] = (outputs, inputs)


def group_between(stage: Any, source: int, destination: int) -> Any:
    """Return the group of messages from one stage to another one beside it."""
    if hasattr(stage, "_get_p2p_group"):  # from 2.15 on each pair may have its own
        return stage._get_p2p_group(source, destination)
    way = "_downstream_group" if source < destination else "_upstream_group"  # 2.14
    return getattr(stage, way, stage.group)


def begin_fsdp(module: Any) -> None:
    """Tell a sharded module, before a forward pass, that the end of the step reduces."""
    if isinstance(module, FSDPModule) and hasattr(module, "set_manual_backward_finalization"):
        module.set_manual_backward_finalization(True)  # from 2.15 on
