"""Trains a Hugging Face model on torch.distributed.pipelining, with any of its schedules.

torchrun --nproc-per-node=2 examples/torch_pipelining.py --schedule 1F1B
torchrun --nproc-per-node=2 examples/torch_pipelining.py --schedule ZBVZeroBubble
"""

import argparse

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class
from transformers import LlamaConfig, LlamaForCausalLM

from pipecodec import partition, pipelining


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128}
    layers = {"num_hidden_layers": 4, "num_attention_heads": 4, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**sizes, **layers, use_cache=False))


def batches(steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(128, (8, 32), generator=generator)


def loss_fn(output, labels):
    logits = output.logits[:, :-1].flatten(0, 1)  # the model's own output
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", default="1F1B")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", help="folder of a checkpoint")
    args = parser.parse_args()
    dist.init_process_group()
    rank, world = dist.get_rank(), dist.get_world_size()
    schedule_class = get_schedule_class(args.schedule)
    several = issubclass(schedule_class, PipelineScheduleMulti)
    v_shaped = args.schedule in ("ZBVZeroBubble", "DualPipeV")  # rank 0 has first and last stage
    own = [rank, 2 * world - 1 - rank if v_shaped else rank + world] if several else [rank]

    batch = {"input_ids": torch.zeros(2, 32, dtype=torch.long)}  # one micro-batch
    part = partition(build_model(), kwargs=batch, n_stages=world * len(own))
    stages = [pipelining.build_stage(part, index) for index in own]
    schedule = schedule_class(stages if several else stages[0], 4, pipelining.loss(loss_fn))
    modules = torch.nn.ModuleList(stage.submod for stage in stages)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3)

    def run(call, ids):
        losses = []
        call(**({"input_ids": ids} if rank == 0 else {}), target=ids, losses=losses)
        return torch.stack(losses).mean() if losses else None  # on the last stage's rank

    for step, ids in enumerate(batches(args.steps)):
        optimizer.zero_grad()
        loss = run(schedule.step, ids)
        pipelining.sum_tied_gradients(stages)
        norm = pipelining.clip_grad_norm_(stages, 1.0)
        optimizer.step()
        if step % 5 == 0:
            modules.eval()
            held_out = run(schedule.eval, next(batches(1, seed=2)))
            modules.train()
            if loss is not None:
                print(f"step {step}: loss {loss:.4f}, held out {held_out:.4f}, norm {norm:.3f}")
    if args.save:
        dcp.save(pipelining.model_state_dict(stages, full=False), checkpoint_id=args.save)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
