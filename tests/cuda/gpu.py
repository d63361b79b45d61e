"""Marks for tests that need GPUs."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pipecodec import _C

__all__ = ["DEVICES", "needs_gpus", "on"]


def _missing(count: int) -> str:
    if not _C.WITH_CUDA:
        return "the extension was built without CUDA kernels"
    found = torch.cuda.device_count()
    return "" if found >= count else f"needs {count} GPU(s), {found} found"


def needs_gpus(count: int) -> list[pytest.MarkDecorator]:
    """Return the marks of a test on ``count`` GPUs; PIPECODEC_REQUIRE_CUDA=1 skips none."""
    required = os.environ.get("PIPECODEC_REQUIRE_CUDA") == "1"
    missing = _missing(count)
    return [pytest.mark.cuda, pytest.mark.skipif(bool(missing) and not required, reason=missing)]


DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpus(1))]
"""Devices for tests whose own logic runs on the CPU too."""


def on(device: str, value: Any) -> Any:
    """Return a value with its tensors copied to a device, aliases kept; strides are not."""
    made: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach().to(device).requires_grad_(tensor.requires_grad)
        return made[id(tensor)]

    # Or it would become a tuple.
    return tree_map_only(Tensor, copy, value, is_leaf=lambda each: isinstance(each, torch.Size))
