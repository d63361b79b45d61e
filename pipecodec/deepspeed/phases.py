"""Lets training and evaluation on one engine have different sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..engine.stage_module import StageModule

__all__ = ["Phases"]


class Phases:
    """Lets the boundaries agree anew whenever training turns to evaluation, and back.

    The batches of the two may then differ in size without ``dynamic_shape``; in evaluation nothing
    goes through a tunnel, and training settles its own routes. It costs the engine's exchange
    of shapes, one more message for each boundary. ``engine.reset_activation_shape()`` makes the
    ``stages`` of this rank agree anew as well.

    Training checkpoints where the module's ``activation_checkpoint_interval`` says so at the time.
    Evaluation runs without checkpointing, and out of ``torch.inference_mode``: the engine could not
    use the buffers again that it makes there.
    """

    def __init__(self, engine: Any, stages: Sequence[StageModule]) -> None:
        self._engine, self._stages = engine, stages
        self._phase = "train_batch"

    def before_batch(self, method: str) -> None:
        """Begin a batch of the engine's method of that name."""
        if self._phase != method:
            self._phase = method
            self._engine.reset_activation_shape()
        module = self._engine.module
        for stage in self._stages:
            stage.start_batch()
            stage.recomputes = module.activation_checkpoint_interval > 0
        # Else an interval that was set as an attribute finds no layers, and runs none of them.
        module._precompute_checkpointable_values()

    def reset(self) -> None:
        """Let the boundaries agree anew."""
        for stage in self._stages:
            stage.reset()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluate without gradients and checkpointing."""
        self._engine.total_loss = None  # the engine adds the last stage's output to it
        module = self._engine.module
        interval = module.activation_checkpoint_interval
        codecs = [stage.outgoing for stage in self._stages if stage.outgoing is not None]
        with torch.inference_mode(False), torch.no_grad():
            module.activation_checkpoint_interval = 0
            for codec in codecs:
                codec.evaluating = True
            try:
                yield
            finally:
                module.activation_checkpoint_interval = interval
                for codec in codecs:
                    codec.evaluating = False
