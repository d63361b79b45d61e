"""A generator process streams samples of any structure to a trainer, which sends weights back.

torchrun --nproc-per-node 2 examples/channel.py --steps 5

Lengths, texts and numbers differ in each message, nothing is padded and nothing pickled; both sides
end with the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import pipecodec

VOCABULARY = 50


def build_model() -> nn.Module:
    """Return the small model that both sides start from."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY))


def samples(model: nn.Module, step: int) -> dict[str, Any]:
    """Draw some sequences, each as long as it gets, with notes about each."""
    generator = torch.Generator().manual_seed(step)
    drawn = []
    for number in range(1 + step % 3):
        tokens = [int(torch.randint(VOCABULARY, (), generator=generator))]
        for _ in range(3 + step + number):
            odds = model(torch.tensor(tokens[-1])).softmax(-1)
            tokens.append(int(torch.multinomial(odds, 1, generator=generator)))
        note = f"step {step}, sample {number}"
        drawn.append({"tokens": torch.tensor(tokens), "reward": tokens[-1] / 10, "note": note})
    return {"step": step, "samples": drawn}


def generate(channel: pipecodec.Channel, model: nn.Module, steps: int) -> None:
    """Send samples; use the weights that come back."""
    with torch.no_grad():
        for step in range(steps):
            channel.send(samples(model, step))
            model.load_state_dict(channel.recv())


def train(channel: pipecodec.Channel, model: nn.Module, steps: int) -> None:
    """Learn from samples as they come, and send the weights back."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        batch = channel.recv()
        for sample in batch["samples"]:
            tokens = sample["tokens"]
            loss = nn.functional.cross_entropy(model(tokens[:-1]), tokens[1:])
            (sample["reward"] * loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        channel.send(dict(model.state_dict()))
        print(f"step {batch['step']}: {len(batch['samples'])} samples, loss {loss.item():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--save", help="write rank r's weights to SAVE-r.pt")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    rank, network = dist.get_rank(), build_model()
    with pipecodec.Channel(peer=1 - rank) as between:
        (train if rank else generate)(between, network, options.steps)
    if options.save:
        torch.save(network.state_dict(), f"{options.save}-{rank}.pt")
    dist.destroy_process_group()
