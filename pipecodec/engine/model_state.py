"""Gathers the state dicts of all stages, on several ranks, into the model's on one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..errors import bug
from ..stages.model_state import ModelState
from . import together

__all__ = ["gathered", "sharded"]


def gathered(
    state: ModelState,
    entries: Mapping[int, Mapping[str, Any]],
    device: torch.device,
    *,
    first_replica: bool,
    group: Any = None,
) -> dict[str, Any] | None:
    """Return on rank 0 the model's state dict, on the CPU; None elsewhere.

    A collective call of the ranks in ``group``, None: of all. ``entries`` are those of this rank's
    stages, which it gives if it is a ``first_replica`` of them; tensors are sent one by one, over
    ``device``, and a tied weight once. Where rank 0 is not in ``group``, nothing is sent. Raises
    ``ValueError``, the same on every rank of ``group``, where ``state.check`` does.
    """
    everyone = together.gathered(group, _described(entries) if first_replica else {})
    owners = {stage: rank for rank, theirs in everyone.items() for stage in theirs}
    described = [everyone[owners[stage]][stage] for stage in range(state.stages)]
    try:
        state.check(described)
    except ValueError as error:
        raise together.on_all_ranks(error) from None
    if 0 not in everyone:
        return None
    found: list[dict[str, Any]] = [{} for _ in described]
    for path, stage in dict.fromkeys(places[0] for places in state.places.values()):
        what, owner = described[stage][path], owners[stage]
        if isinstance(what, torch.Tensor):
            own = entries[stage][path] if owner == dist.get_rank() else None
            found[stage][path] = _sent(own, what, owner, device, group)
        else:
            found[stage][path] = what
    return state.to_model(found, strict=False) if dist.get_rank() == 0 else None


def sharded(stages: Mapping[int, nn.Module]) -> str | None:
    """Return the reason why these stages give no state dict of the model; None if they do."""
    for stage, module in stages.items():
        for path, parameter in module.named_parameters():
            if getattr(parameter, "tensor_model_parallel", False):
                return (
                    f"{path} of stage {stage} is sharded over tensor-parallel ranks, and only the "
                    f"code that sharded it can put it together"
                )
    return None


def _described(entries: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the entries without the tensors' data."""
    return {
        stage: {
            path: torch.empty_like(value, device="meta")
            if isinstance(value, torch.Tensor)
            else value
            for path, value in own.items()
        }
        for stage, own in entries.items()
    }


def _sent(
    own: torch.Tensor | None, like: torch.Tensor, owner: int, device: torch.device, group: Any
) -> Any:
    """Return on rank 0 the tensor that ``owner`` has."""
    rank = dist.get_rank()
    if owner == rank == 0:
        if own is None:
            raise bug("the owner of an entry does not have it")
        return own.detach().to("cpu", copy=True)
    if own is not None and own.numel():
        dist.send(_bytes(own.detach().to(device)), dst=0, group=group)
    if rank != 0:
        return None
    received = torch.empty(like.shape, dtype=like.dtype, device=device)
    if received.numel():
        dist.recv(_bytes(received), src=owner, group=group)
    return received.cpu()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
