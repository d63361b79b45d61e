"""Trains a Hugging Face causal model on DeepSpeed's pipeline engine, evaluates it and saves it.

torchrun --nproc-per-node 2 examples/hugging_face.py --save out
deepspeed --num_gpus 4 examples/hugging_face.py --save out
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 1.0,  # this is DeepSpeed's default too; 0.0 clips nothing
    "steps_per_print": None,
}


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    # Your own: AutoModelForCausalLM.from_pretrained("folder or name", use_cache=False)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, use_cache=False))


def micro_batches(seed):
    """Rows that count from a random token, the same on every rank: a model can learn them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(CONFIG["gradient_accumulation_steps"]):
        start = torch.randint(
            128, (CONFIG["train_micro_batch_size_per_gpu"], 1), generator=generator
        )
        tokens = (start + torch.arange(32)) % 128
        yield {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--save", help="folder for save_pretrained")
    parser.add_argument("--local_rank", help="deepspeed's launcher passes it")
    args = parser.parse_args()
    model = build_model().to(torch.bfloat16 if args.bf16 else torch.float32)
    example = next(micro_batches(0))
    part = pipecodec.partition(model, kwargs=example, n_stages=int(os.environ["WORLD_SIZE"]))
    config = CONFIG | {"bf16": {"enabled": args.bf16}}
    engine, *_ = pipecodec.deepspeed.initialize(part, config=config, optimizer=adamw)

    for step in range(args.steps):
        loss = engine.train_batch(micro_batches(step)).item()
        if step % 10 == 0:
            held_out = engine.eval_batch(micro_batches(-1)).item()
            if dist.get_rank() == 0:
                print(f"step {step}: loss {loss:.4f}, held out {held_out:.4f}")
    if args.save:
        state = pipecodec.deepspeed.model_state_dict(engine, part)  # on rank 0; None elsewhere
        if state is not None:
            model.save_pretrained(args.save, state_dict=state)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
