"""Keeps a stage that recomputes its activations from counting anything twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["statistics_kept"]


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let batch and instance norms in ``module`` leave their running statistics as they are.

    In training a norm does not read them, so that its output stays the same. It is given copies to
    change: autograd may have saved the buffers themselves.
    """
    counting = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _NormBase) and norm.training and norm.track_running_stats
        for name, buffer in norm._buffers.items()
        if buffer is not None
    ]
    for norm, name, buffer in counting:
        norm._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for norm, name, buffer in counting:
            norm._buffers[name] = buffer
