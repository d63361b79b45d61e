"""Makes the engine's received gradient the leaf's own, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import _C
from ..engine.stage_module import StageModule
from .hooks import Around

__all__ = ["donate_gradients"]


def donate_gradients(engine: Any, stages: Sequence[StageModule]) -> Around:
    """Let the gradients that the ``engine`` receives belong to the ``stages`` of this rank.

    Returns the actions before and after its instruction ``RecvGrad``.

    Such a gradient may become a parameter's ``.grad``, or be kept by a hook. The engine would
    receive the next one, or an activation, into the same buffer. So it gets a buffer here that
    nothing but gradients is received into, and another one as long as anything else holds this
    one's memory.
    """
    buffer = _Buffer()
    # The engine's own list is of buffers that it also receives activations into.
    kept: list[torch.Tensor] = []

    def before(buffer_id: int) -> None:
        nonlocal kept
        engine.grad_layer = None
        tunnel = engine.pipe_buffers["outputs"][buffer_id][0]
        kept, engine._grad_layer_buf = engine._grad_layer_buf, [buffer.lend(tunnel)]

    def give_back(buffer_id: int) -> None:
        engine._grad_layer_buf = kept

    def lent(buffer_id: int) -> None:
        buffer.lent()

    for stage in stages:
        if stage.outgoing is not None:
            stage.outgoing.donate_gradient = buffer.give
    return Around(before=[before], after=[give_back, lent], failed=[give_back])


class _Buffer:
    """Memory for one gradient at a time, used again once nobody else holds it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)
        self.known = 0

    def lend(self, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor like that one, in memory that no other tensor lies in."""
        # A storage counts the tensors that lie in it, so this one must never be handed out itself.
        free = self.memory.shape == like.shape and self.memory.device == like.device
        if not free or _C.use_count(self.memory) > 1:
            self.memory = torch.empty_like(like, requires_grad=False)
        return self.memory.detach()

    def lent(self) -> None:
        """Count any further tensor in this memory as another holder from now on."""
        self.known = _C.use_count(self.memory)

    def give(self, gradient: torch.Tensor) -> bool:
        """Return whether the memory of ``gradient`` is this one, and nobody else's."""
        if gradient.data_ptr() != self.memory.data_ptr():
            return False
        known, self.known = self.known, 0  # given once
        return known == _C.use_count(self.memory)
