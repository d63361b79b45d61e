"""Trains on packed texts: no padding, another number of them each time, lengths as plain ints.

torchrun --nproc-per-node 3 examples/packed.py
deepspeed --num_gpus 3 examples/packed.py
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn

import pipecodec

WORDS, WIDTH, MICRO_BATCHES = 128, 32, 4
CONFIG = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": MICRO_BATCHES}


class Embed(nn.Embedding):
    def forward(self, tokens, cu_seqlens):
        sizes, total = cu_seqlens.diff(), len(tokens)
        begins = cu_seqlens[:-1].repeat_interleave(sizes, output_size=total)
        positions = torch.arange(total, device=tokens.device) - begins
        return {"hidden": super().forward(tokens) + torch.sin(positions[:, None] / 7)}


class Block(nn.Linear):
    """Attends within each text; ``lengths`` are ints, so that no device is asked for them."""

    def forward(self, hidden, lengths):
        attend = nn.functional.scaled_dot_product_attention
        texts = super().forward(hidden)[None].split(lengths, 1)
        attended = [attend(*text.chunk(3, -1), is_causal=True)[0] for text in texts]
        return {"hidden": hidden + torch.cat(attended)}


class Head(nn.Linear):
    def forward(self, hidden, labels):
        return {"loss": nn.functional.cross_entropy(super().forward(hidden), labels)}


def build_stages(count):
    torch.manual_seed(0)  # the same weights on every rank
    blocks = [Block(WIDTH, 3 * WIDTH) for _ in range(count - 2)]
    return [Embed(WORDS, WIDTH), *blocks, Head(WIDTH, WORDS)]


def micro_batches(step):
    """From one to five texts in each, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    for number in range(MICRO_BATCHES):
        lengths = torch.randint(2, 40, (1 + (step + number) % 5,), generator=generator).tolist()
        ends = torch.tensor([0, *lengths]).cumsum(0)
        tokens = torch.randint(WORDS, (sum(lengths),), generator=generator)
        yield dict(tokens=tokens, cu_seqlens=ends, lengths=lengths, labels=tokens.roll(-1))


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    args, _ = parser.parse_known_args()  # deepspeed's launcher passes --local_rank
    stages = build_stages(int(os.environ["WORLD_SIZE"]))
    part = pipecodec.partition_modules(stages, list(next(micro_batches(0))))
    engine, *_ = pipecodec.deepspeed.initialize(part, config=CONFIG, optimizer=adamw, read="ahead")
    for step in range(args.steps):
        loss = engine.train_batch(micro_batches(step)).item()
        if dist.get_rank() == 0:
            print(f"step {step}: loss {loss!r}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
