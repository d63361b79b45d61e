"""Runs a model without leaving a trace in it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back buffers, gradients, modes, attributes and the random states afterwards."""
    buffers = [
        (module, name, buffer, None if _unreal(buffer) else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    attributes = [(module, _plain_attributes(module)) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    drawn = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn_by_numpy = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if value is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)
        random.setstate(drawn)
        if numpy is not None:
            numpy.random.set_state(drawn_by_numpy)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        for module, known in attributes:
            for name, value in _plain_attributes(module).items():
                if name in known and known[name] is not value:
                    vars(module)[name] = known[name]


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return all that a forward may leave on a module: tensors and numbers under public names."""
    kinds = (torch.Tensor, int, float, type(None))
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, kinds) and not name.startswith("_") and name != "training"
    }


def _unreal(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or getattr(tensor, "fake_mode", None) is not None
