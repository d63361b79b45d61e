"""Runs a model without leaving a trace in it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..no_memory import without_memory
from ..tape.kept import contents, mutables_in
from ..tape.structure import tensors_in
from ..tape.writing import written_by

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back buffers, gradients, modes, attributes and the random states afterwards."""
    buffers = [(one, one.detach().clone()) for one in _tensors(model) if not without_memory(one)]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    attributes = [(module, _attributes(module)) for module in model.modules()]
    kept = [pair for module in model.modules() for pair in _kept(module)]
    parameters = _CopyOnWrite(model)
    for parameter, _ in gradients:
        parameter.grad = None
    drawn = random.getstate()
    drawn_by_numpy = np.random.get_state()
    try:
        with torch.random.fork_rng(devices), parameters:
            yield
    finally:
        for module, known in attributes:
            _put_back(module, known)
        for value, items in kept:
            _put_items_back(value, items)
        parameters.put_back()
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


class _CopyOnWrite(TorchFunctionMode):
    """Copies a parameter before the first function that writes into its memory."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._owners = {_memory(p): p for p in model.parameters() if not without_memory(p)}
        self._copies: dict[int, tuple[nn.Parameter, torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for _, tensor in tensors_in(written_by(function, args, kwargs)):
            owner = self._owners.get(_memory(tensor))
            if owner is not None and id(owner) not in self._copies:
                self._copies[id(owner)] = owner, owner.detach(), owner.detach().clone()
        return function(*args, **kwargs)

    def put_back(self) -> None:
        """Give the parameters their memory and their values."""
        with torch.no_grad():
            for parameter, data, value in self._copies.values():
                data.copy_(value)
                parameter.data = data


def _memory(tensor: torch.Tensor) -> int | None:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """Return the buffers and the tensors that are plain attributes."""
    values = [value for module in model.modules() for value in vars(module).values()]
    return [*model.buffers(), *(value for value in values if isinstance(value, torch.Tensor))]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name != "training"}


def _kept(module: nn.Module) -> list[tuple[Any, list[tuple[Any, Any]]]]:
    """Return the containers and objects in a module's attributes, each with its items."""
    attributes = list(_attributes(module).items())
    return [(value, contents(value)) for _, value in mutables_in(attributes)]


def _put_back(module: nn.Module, known: dict[str, Any]) -> None:
    for name in [name for name in vars(module) if name not in known and name != "training"]:
        del vars(module)[name]
    vars(module).update(known)


def _put_items_back(value: Any, items: list[tuple[Any, Any]]) -> None:
    now = contents(value)
    if len(now) == len(items) and all(
        a is c and b is d for (a, b), (c, d) in zip(now, items, strict=True)
    ):
        return
    if isinstance(value, dict):
        value.clear()
        value.update(items)
    elif isinstance(value, (list, deque)):
        value.clear()
        value.extend(item for _, item in items)
    elif isinstance(value, set):
        value.clear()
        value.update(item for _, item in items)
    else:
        for name, _ in now:
            object.__delattr__(value, name)
        for name, item in items:
            object.__setattr__(value, name, item)
