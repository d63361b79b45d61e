"""Training and evaluation on one engine, each with sizes of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .wrapper import DeepSpeedPipeStageWrapper

__all__ = ["separate_phases"]


def separate_phases(engine: Any, stages: Sequence[DeepSpeedPipeStageWrapper]) -> None:
    """Let the boundaries agree anew whenever training turns to evaluation, and back.

    The batches of the two may then differ in size without ``dynamic_shape``; in evaluation nothing
    goes through a tunnel, and training settles by itself what does. It costs the engine's exchange
    of shapes, one more message for each boundary. ``engine.reset_activation_shape()`` makes the
    ``stages`` of this rank agree anew as well.

    Training checkpoints where the module's ``activation_checkpoint_interval`` says so at the time.
    Evaluation runs without checkpointing, and out of ``torch.inference_mode``: the engine could not
    use the buffers again that it makes there.
    """
    forget = engine.reset_activation_shape

    def reset_activation_shape() -> None:
        forget()
        for stage in stages:
            stage.reset()

    phase = "train_batch"

    def in_phase(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal phase
            if phase != method.__name__:
                phase = method.__name__
                engine.reset_activation_shape()
            for stage in stages:
                stage.start_batch()
                stage.recomputes = engine.module.activation_checkpoint_interval > 0
            # Else an interval that was set as an attribute finds no layers, and runs none of them.
            engine.module._precompute_checkpointable_values()
            return method(*args, **kwargs)

        return call

    evaluate = in_phase(engine.eval_batch)

    @functools.wraps(evaluate)
    def eval_batch(*args: Any, **kwargs: Any) -> Any:
        engine.total_loss = None  # the engine adds the last stage's output to what it has there
        with torch.inference_mode(False), torch.no_grad(), _evaluating(engine.module, stages):
            return evaluate(*args, **kwargs)

    engine.reset_activation_shape = reset_activation_shape
    engine.train_batch = in_phase(engine.train_batch)
    engine.eval_batch = eval_batch


@contextmanager
def _evaluating(module: Any, stages: Sequence[DeepSpeedPipeStageWrapper]) -> Iterator[None]:
    interval = module.activation_checkpoint_interval
    codecs = [stage.outgoing for stage in stages if stage.outgoing is not None]
    module.activation_checkpoint_interval = 0
    for codec in codecs:
        codec.evaluating = True
    try:
        yield
    finally:
        module.activation_checkpoint_interval = interval
        for codec in codecs:
            codec.evaluating = False
