"""Puts values into a stage, so that places of one tensor keep one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..no_memory import without_memory
from ..stages.ties import memory_of
from .slots import Slot, Stage

__all__ = ["put"]


def put(own: Stage, values: Mapping[Slot, torch.Tensor], device: torch.device) -> None:
    """Put each value into its place and into every other place of the same tensor, once each.

    A tied weight of which another stage has a copy in this process, on the same device, becomes
    that copy, with the new value. A tensor that has memory keeps its object. What else has memory
    moves to the device.
    """
    places: dict[object, list[Slot]] = {}
    for slot in own.slots:
        places.setdefault(memory_of(slot.tensor), []).append(slot)
    for slot, value in values.items():
        held = places[memory_of(slot.tensor)]
        new = _tensor(own, slot, slot.tensor, value)
        for place in held:
            if place.tensor is not new:
                place.put(new)
    for slot in own.slots:
        if not without_memory(slot.tensor) and slot.tensor.device != device:
            slot.tensor.data = slot.tensor.data.to(device)


def _tensor(own: Stage, slot: Slot, old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the object that is to hold the value."""
    kept = [old] if not without_memory(old) else list(own.copies(slot))
    for tensor in kept:
        if tensor is value:
            return value
        if tensor is old or (tensor.device, tensor.dtype) == (value.device, value.dtype):
            tensor.data = value.detach()
            return tensor
    if isinstance(old, nn.Parameter) and not isinstance(value, nn.Parameter):
        return nn.Parameter(value.detach(), old.requires_grad)
    return value
