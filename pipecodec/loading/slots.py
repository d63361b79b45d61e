"""Finds the tensors that modules hold, and the model's tensors behind those of a stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..arguments import whole_number
from ..no_memory import without_memory
from ..stages.partition import Partition, check_part
from ..stages.ties import memory_of

__all__ = ["Slot", "Stage", "model_of", "slots"]


class Slot(NamedTuple):
    """A place for a tensor: a parameter, a buffer or another attribute of a module."""

    module: nn.Module
    name: str
    path: str
    """The name from the root, as in a state dict."""

    @property
    def tensor(self) -> torch.Tensor:
        """The tensor that is there now."""
        tensor: torch.Tensor = getattr(self.module, self.name)
        return tensor

    def put(self, tensor: torch.Tensor) -> None:
        """Put a tensor here, one that is a parameter if the last one was."""
        setattr(self.module, self.name, tensor)


def slots(root: nn.Module) -> Iterator[Slot]:
    """Yield all places of tensors, each module once.

    An attribute that was computed of parameters is none: hooks (``weight_norm``) compute it anew.
    """
    for prefix, module in root.named_modules():
        for holder in (module._parameters, module._buffers, vars(module)):
            for name, value in holder.items():
                if isinstance(value, torch.Tensor) and value.grad_fn is None:
                    yield Slot(module, name, f"{prefix}.{name}".lstrip("."))


def model_of(part: Partition) -> nn.Module:
    """Return the model, whose tensors have no memory; ValueError if it is not known."""
    if part.model is None:
        raise ValueError(
            "the partition does not know a model without memory; build the model on meta "
            "(with torch.device('meta'):) and pass it to pipecodec.partition, or as model= to "
            "partition_modules"
        )
    return part.model


class Stage:
    """A stage's tensors, and where they are in the model."""

    def __init__(self, part: Partition, number: int) -> None:
        check_part(part)
        whole_number("stage", number, "the number of a stage")
        if not 0 <= number < len(part.stages):
            raise ValueError(f"there is no stage {number}; there are {len(part.stages)}, from 0")
        self.part, self.number = part, number
        self.module, self.model = part.stages[number], model_of(part)
        state = part.known_model_state()
        self.slots = list(slots(self.module))
        self.keys: dict[str, list[str]] = {}
        """By path of the stage's state dict: the model's keys of that tensor."""
        for key, places in state.places.items():
            for path, stage in places:
                if stage == number:
                    self.keys.setdefault(path, []).append(key)
        self.module_keys = set(self.module.state_dict(keep_vars=True))
        self._names = {id(module): name for name, module in self.model.named_modules()}

    def tensors(self) -> list[Slot]:
        """Return one place of each tensor: one of the state dict's, if it is there."""
        chosen: dict[object, Slot] = {}
        for slot in sorted(self.slots, key=lambda slot: slot.path not in self.module_keys):
            chosen.setdefault(memory_of(slot.tensor), slot)
        return [slot for slot in self.slots if chosen[memory_of(slot.tensor)] is slot]

    def model_slot(self, slot: Slot) -> Slot:
        """Return the model's place of a tensor: under the first of its names, if it has several.

        A place in a module that is the stage's own is its own.
        """
        if slot.path in self.keys:
            path = self.keys[slot.path][0]
            owner, _, name = path.rpartition(".")
            return Slot(self.model.get_submodule(owner), name, path)
        if id(slot.module) in self._names:
            prefix = self._names[id(slot.module)]
            return Slot(slot.module, slot.name, f"{prefix}.{slot.name}".lstrip("."))
        owner = slot.path.rpartition(".")[0]
        try:
            original = self.model.get_submodule(owner)
        except AttributeError:
            return slot
        same = type(original) is type(slot.module) and hasattr(original, slot.name)
        return Slot(original, slot.name, slot.path) if same else slot

    def copies(self, slot: Slot) -> Iterator[torch.Tensor]:
        """Yield a tied weight's copies with memory that other stages have in this process."""
        for key in self.keys.get(slot.path, ())[:1]:
            for path, stage in self.part.known_model_state().places[key]:
                if stage != self.number:
                    owner, _, name = path.rpartition(".")
                    copy = getattr(self.part.stages[stage].get_submodule(owner), name)
                    if not without_memory(copy):
                        yield copy

    def hidden(self) -> list[str]:
        """Return the names of attributes that hold tensors without memory in a container."""
        return [
            f"{prefix}.{name}".lstrip(".")
            for prefix, module in self.module.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, (list, tuple, dict)) and name not in _TORCHS and _any(value)
        ]


_TORCHS = set(vars(nn.Module()))
"""Attributes of every module: its parameters, children and hooks."""


def _any(value: Any) -> bool:
    return any(
        isinstance(leaf, torch.Tensor) and without_memory(leaf)
        for leaf in pytree.tree_leaves(value)
    )
