"""Runs a model without leaving a trace in it."""

from __future__ import annotations

import operator
import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..tape.no_memory import without_memory
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
    parameters = _CopyOnWrite(model)
    for parameter, _ in gradients:
        parameter.grad = None
    drawn = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn_by_numpy = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices), parameters:
            yield
    finally:
        for module, known in attributes:
            _put_back(module, known)
        parameters.put_back()
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        random.setstate(drawn)
        if numpy is not None:
            numpy.random.set_state(drawn_by_numpy)
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


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return the attributes of a module, each with a copy if it is a container."""
    return {
        name: (value, _items(value)) for name, value in vars(module).items() if name != "training"
    }


def _put_back(module: nn.Module, known: dict[str, tuple[Any, Any]]) -> None:
    for name in [name for name in vars(module) if name not in known and name != "training"]:
        del vars(module)[name]
    for name, (value, items) in known.items():
        vars(module)[name] = value
        if items is None or _same_items(value, items):
            continue
        value.clear()
        value.extend(items) if isinstance(value, (list, deque)) else value.update(items)


def _items(value: Any) -> Any:
    """Return a copy of a container's items, or None."""
    copies = ((dict, dict), ((list, deque), list), (set, set))
    return next((copy(value) for kind, copy in copies if isinstance(value, kind)), None)


def _same_items(value: Any, items: Any) -> bool:
    if isinstance(value, dict):
        return list(value) == list(items) and all(value[key] is items[key] for key in items)
    if isinstance(value, (list, deque)):
        return len(value) == len(items) and all(map(operator.is_, value, items))
    return bool(value == items)
