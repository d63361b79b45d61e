"""The names that blocks of code take for granted: ``with=NAME`` after a fence's language.

A scene runs before its block, in the block's namespace and process. It gives a small model in place
of a large one, and nothing that stands in for the project's own code.
"""

from __future__ import annotations

__all__ = ["AFTER", "SCENES"]

LLAMA = """
import itertools
import os

import torch
from torch.distributed.pipelining import Schedule1F1B, pipeline
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

import pipecodec

rank = int(os.environ.get("RANK", 0))
torch.manual_seed(0)
model_config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4,
    num_attention_heads=4, use_cache=False,
)
model = AutoModelForCausalLM.from_config(model_config)
ids = torch.randint(64, (8, 12))
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
labels = batch["labels"]
batches = itertools.repeat(batch)
config = ds_config = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)
"""

PART = (
    LLAMA
    + """
part = pipecodec.partition(model, kwargs=batch, n_stages=int(os.environ.get("WORLD_SIZE", 2)))
"""
)

ENGINE = (
    PART
    + """
engine, *_ = pipecodec.deepspeed.initialize(
    part, config=ds_config, loss_fn=None, optimizer=optimizer
)
"""
)

SCENES = {
    "llama": LLAMA,
    "two-sizes": PART
    + """
other_batch = {name: value[:, :8] for name, value in batch.items()}
""",
    "folder": LLAMA
    + """
import torch.distributed as dist

folder, device = "folder", "cpu"
if rank == 0:
    model.save_pretrained(folder)
    open("written", "w").close()
else:
    import time

    while not os.path.exists("written"):
        time.sleep(0.05)
""",
    "engine": ENGINE,
    "pipe": LLAMA
    + """
from torch.distributed.pipelining import SplitPoint

split_spec = {"model.layers.2": SplitPoint.BEGINNING}
""",
    "schedule": LLAMA
    + """
import torch.distributed as dist

del batch["labels"]
part = pipecodec.partition(
    model, kwargs={name: value[:1] for name, value in batch.items()}, n_stages=2
)
if not dist.is_initialized():
    dist.init_process_group("gloo")


def loss_fn(output, target):
    return torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())
""",
    "training-loop": LLAMA
    + """
del batch["labels"]


def cut():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model_config)
    kwargs = {name: value[:1] for name, value in batch.items()}
    return pipecodec.partition(model, kwargs=kwargs, n_stages=2)


def loss_fn(output, target):
    return torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())
""",
    "rank-stages": """
import torch.distributed.checkpoint

stages, folder = [stage], "checkpoint"
""",
    "mesh": """
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("pp", "dp"))
part = pipecodec.partition(
    AutoModelForCausalLM.from_config(model_config),
    kwargs={name: value[:1] for name, value in batch.items()}, n_stages=2,
)
i = rank
""",
    "by-hand": """
import itertools
import os

from torch.distributed.pipelining import Schedule1F1B

rank = int(os.environ["RANK"])
x, lengths, labels = torch.ones(8, 8), torch.arange(8), torch.zeros(8, 8)
batch = {"x": x, "lengths": lengths}
batches = itertools.repeat({"x": x[:2], "lengths": lengths[:2], "labels": labels[:2]})
loss_fn = torch.nn.functional.mse_loss


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)
""",
    "by-hand-again": """
stages = [First(8, 8), Middle(8, 8), Last(8, 8)]
part = pipecodec.partition_modules(stages)
optimizer = torch.optim.SGD(stages[rank].parameters(), lr=0.1)
""",
    "by-hand-model": """
stages = [First(8, 8), Middle(8, 8), Last(8, 8)]
model = torch.nn.Sequential(*stages)
part = pipecodec.partition_modules(stages, model=model)
engine, *_ = pipecodec.deepspeed.initialize(
    part, loss_fn=loss_fn, config=config, optimizer=lambda parameters: torch.optim.SGD(parameters)
)
""",
}

AFTER = {
    "README.md": """
assert value["step"] == 7
""",
    "docs/training-loop.md": """
assert len(expected) == (16 if rank == 1 else 0)
assert all(map(torch.equal, expected, again)) and len(again) == len(expected)
assert len(expected_there) == 2 and expected_there == again_there, (expected_there, again_there)
""",
    "docs/stages.md": """
assert out.shape == (2, 8) and not out[0, 3:].any() and out[1, :5].all()
assert 0 < loss.item() < 10
assert (rank == 0 and set(state) == set(model.state_dict())) or state is None
""",
}
"""Statements that hold behind a page's last block."""
