"""Trains a Hugging Face model on torch.distributed.pipelining, with any of its schedules.

torchrun --nproc-per-node=2 examples/torch_pipelining.py --schedule 1F1B
torchrun --nproc-per-node=2 examples/torch_pipelining.py --schedule ZBVZeroBubble
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class
from transformers import LlamaConfig, LlamaForCausalLM

import pipecodec
from pipecodec import pipelining


def build_model() -> torch.nn.Module:
    torch.manual_seed(0)  # the same model on every rank
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def batches(steps: int):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randint(128, (8, 32), generator=generator)


def loss_fn(output, labels):
    logits = output.logits[:, :-1].flatten(0, 1)  # the model's own output
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", default="1F1B")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", help="folder of a checkpoint")
    args = parser.parse_args()
    dist.init_process_group()
    rank, world = dist.get_rank(), dist.get_world_size()

    schedule_class = get_schedule_class(args.schedule)
    several = issubclass(schedule_class, PipelineScheduleMulti)
    own = [rank]
    if several:  # V schedules place the last stage beside the first one
        v_shaped = args.schedule in ("ZBVZeroBubble", "DualPipeV")
        own.append(2 * world - 1 - rank if v_shaped else rank + world)

    part = pipecodec.partition(
        build_model(), kwargs={"input_ids": torch.zeros(2, 32, dtype=torch.long)},
        n_stages=world * len(own),
    )  # fmt: skip
    stages = [pipelining.build_stage(part, index) for index in own]
    schedule = schedule_class(
        stages if several else stages[0], n_microbatches=4, loss_fn=pipelining.loss(loss_fn)
    )
    modules = torch.nn.ModuleList(stage.submod for stage in stages)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3)

    for step, ids in enumerate(batches(args.steps)):
        optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        inputs = {"input_ids": ids} if 0 in own else {}
        schedule.step(**inputs, target=ids, losses=losses)
        pipelining.sum_tied_gradients(stages)
        norm = pipelining.clip_grad_norm_(stages, 1.0)
        optimizer.step()
        if losses and step % 5 == 0:
            print(f"step {step}: loss {torch.stack(losses).mean():.4f}, norm {norm:.3f}")

    if args.save:
        dcp.save(pipelining.model_state_dict(stages, full=False), checkpoint_id=args.save)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
