"""The demo's pipeline on DeepSpeed's engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pipecodec.demo.crossing import count, watch
from pipecodec.demo.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipecodec.demo.data import MicroBatch
    from pipecodec.demo.launch import Rank
    from pipecodec.demo.settings import Settings

__all__ = ["begin"]


def begin(rank: Rank, settings: Settings, model: PreTrainedModel, example: MicroBatch) -> Training:
    """Cut ``model``, and make this rank's engine; labels are an input, the loss the model's own."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    import pipecodec.deepspeed

    deepspeed.init_distributed(dist_backend=rank.backend, verbose=False)
    loss_fn: Callable[[Any, Any], torch.Tensor] | None = None  # the model's own
    if settings.by_hand:
        from pipecodec.demo.by_hand import causal_lm_loss, cut_into_stages

        part = pipecodec.partition_modules(cut_into_stages(model, settings.stages))
        loss_fn = causal_lm_loss
    else:
        part = pipecodec.partition(model, kwargs=example._asdict(), n_stages=settings.stages)
    engine, *_ = pipecodec.deepspeed.initialize(
        part,
        topology=PipeDataParallelTopology(num_pp=settings.stages, num_dp=1),
        loss_fn=loss_fn,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=settings.learning_rate),
        config={
            "train_micro_batch_size_per_gpu": settings.batch,
            "gradient_accumulation_steps": settings.micro_batches,
            "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0; the other training clips none
            "steps_per_print": None,
        },
    )
    (stage,) = engine.module.forward_funcs
    crossing = watch(stage)

    def step(batch: list[MicroBatch]) -> float:
        loss: float = engine.train_batch(inputs._asdict() for inputs in batch).item()
        return loss

    return Training(step, stage, crossing, lambda: count(stage.outgoing, stage.incoming, crossing))
