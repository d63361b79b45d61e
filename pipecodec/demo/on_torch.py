"""The demo's pipeline on torch.distributed.pipelining, with its 1F1B schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

import pipecodec
from pipecodec.demo.crossing import count, watch_chunks
from pipecodec.demo.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipecodec.demo.data import MicroBatch
    from pipecodec.demo.launch import Rank
    from pipecodec.demo.settings import Settings

__all__ = ["begin"]


def begin(rank: Rank, settings: Settings, model: PreTrainedModel, example: MicroBatch) -> Training:
    """Cut ``model``, and make this rank's schedule; labels are the last rank's target."""
    from torch.distributed.pipelining import Schedule1F1B

    from pipecodec.demo.by_hand import causal_lm_loss, cut_into_stages

    if not dist.is_initialized():
        dist.init_process_group(rank.backend)
    if settings.by_hand:
        part = pipecodec.partition_modules(cut_into_stages(model, settings.stages))
    else:
        part = pipecodec.partition(model, kwargs=_inputs(example), n_stages=settings.stages)
    device = torch.device(rank.device)
    stage: Any = pipecodec.pipelining.build_stage(part, rank.rank, device)

    def loss_fn(output: Any, labels: torch.Tensor) -> torch.Tensor:
        return causal_lm_loss(output if settings.by_hand else output.logits, labels)

    schedule = Schedule1F1B(
        stage, settings.micro_batches, loss_fn=pipecodec.pipelining.loss(loss_fn)
    )
    optimizer = torch.optim.AdamW(stage.submod.parameters(), lr=settings.learning_rate)
    crossing = watch_chunks(stage)
    first, last = rank.rank == 0, rank.rank == settings.stages - 1

    def step(batch: list[MicroBatch]) -> float:
        whole = type(example)(*(torch.cat(parts).to(device) for parts in zip(*batch, strict=True)))
        losses: list[torch.Tensor] = []
        inputs: dict[str, Any] = _inputs(whole) if first else {}
        schedule.step(
            **inputs,
            target=whole.labels if last else None,
            losses=losses,
            return_outputs=False,
        )
        pipecodec.pipelining.sum_tied_gradients(stage)
        optimizer.step()
        optimizer.zero_grad()
        loss = torch.zeros((), device=device)
        for each in losses:
            loss += each.detach()
        dist.broadcast(loss, src=settings.stages - 1)  # every rank of the demo tells its losses
        return (loss / settings.micro_batches).item()

    def finish() -> None:
        ways = stage.run
        outgoing, incoming = ways.boundary_out, ways.boundary_in
        count(outgoing and outgoing.codec, incoming and incoming.codec, crossing)

    return Training(step, stage.submod, crossing, finish)


def _inputs(batch: MicroBatch) -> dict[str, torch.Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
