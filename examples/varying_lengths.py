"""Trains on micro-batches of which each has another length: nothing is padded to one size.

torchrun --nproc-per-node 2 examples/varying_lengths.py --save out
deepspeed --num_gpus 4 examples/varying_lengths.py --save out
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import Qwen3Config, Qwen3ForCausalLM

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
    "steps_per_print": None,
}


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    # Your own: AutoModelForCausalLM.from_pretrained("folder or name", use_cache=False)
    return Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, use_cache=False))


def micro_batches(step):
    """Two texts each, padded to the longer one, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(CONFIG["gradient_accumulation_steps"]):
        lengths = torch.randint(4, 64, (2, 1), generator=generator)
        length = int(lengths.max())
        mask = (torch.arange(length) < lengths).long()
        start = torch.randint(128, (2, 1), generator=generator)
        tokens = (start + torch.arange(length)) % 128
        labels = tokens.masked_fill(mask == 0, -100)
        yield {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", help="folder for save_pretrained")
    parser.add_argument("--local_rank", help="deepspeed's launcher passes it")
    args = parser.parse_args()
    model = build_model()
    example = next(micro_batches(0))
    part = pipecodec.partition(model, kwargs=example, n_stages=int(os.environ["WORLD_SIZE"]))
    engine, *_ = pipecodec.deepspeed.initialize(
        part, config=CONFIG, optimizer=adamw, dynamic_shape=True
    )

    for step in range(args.steps):
        loss = engine.train_batch(micro_batches(step)).item()
        if dist.get_rank() == 0:
            lengths = [batch["input_ids"].shape[1] for batch in micro_batches(step)]
            print(f"step {step}: loss {loss:.4f}, lengths {lengths}")
    if args.save:
        state = pipecodec.deepspeed.model_state_dict(engine, part)  # on rank 0; None elsewhere
        if state is not None:
            model.save_pretrained(args.save, state_dict=state)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
