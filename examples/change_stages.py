"""Goes on from a checkpoint with another number of stages, as if training had not been stopped.

torchrun --nproc-per-node 2 examples/change_stages.py --checkpoint folder --steps 10
torchrun --nproc-per-node 3 examples/change_stages.py --checkpoint folder --steps 20
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
    "steps_per_print": None,
}


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6}
    # Your own: AutoModelForCausalLM.from_pretrained("folder or name", use_cache=False)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, use_cache=False))


def micro_batches(step):
    """Rows that count from a random token, the same on every rank: a model can learn them."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(CONFIG["gradient_accumulation_steps"]):
        start = torch.randint(128, (2, 1), generator=generator)
        tokens = (start + torch.arange(32)) % 128
        yield {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="of all runs together")
    parser.add_argument("--checkpoint", required=True, help="folder to load from and to save in")
    parser.add_argument("--save", help="folder for save_pretrained")
    parser.add_argument("--local_rank", help="deepspeed's launcher passes it")
    args = parser.parse_args()
    model = build_model()
    example = next(micro_batches(0))
    part = pipecodec.partition(model, kwargs=example, n_stages=int(os.environ["WORLD_SIZE"]))
    engine, *_ = pipecodec.deepspeed.initialize(part, config=CONFIG, optimizer=adamw)

    # Without a checkpoint in the folder nothing is loaded, and global_steps is 0.
    pipecodec.deepspeed.load_checkpoint(engine, part, args.checkpoint)
    for step in range(engine.global_steps, args.steps):
        loss = engine.train_batch(micro_batches(step)).item()
        if dist.get_rank() == 0:
            print(f"step {step}: loss {loss:.4f}")
    engine.save_checkpoint(args.checkpoint)
    if args.save:
        state = pipecodec.deepspeed.model_state_dict(engine, part)  # on rank 0; None elsewhere
        if state is not None:
            model.save_pretrained(args.save, state_dict=state)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
