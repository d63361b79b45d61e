"""Trains in a pipeline, exports, and gets the same logits from plain transformers, bit for bit.

torchrun --nproc-per-node 2 examples/export.py --save out
deepspeed --num_gpus 4 examples/export.py --save out
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import GPT2Config, GPT2LMHeadModel

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
    "steps_per_print": None,
}


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 4}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    # Your own: AutoModelForCausalLM.from_pretrained("folder or name", use_cache=False)
    return GPT2LMHeadModel(
        GPT2Config(**sizes, **dropout, tie_word_embeddings=False, use_cache=False)
    )


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
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", required=True, help="folder for save_pretrained")
    parser.add_argument("--local_rank", help="deepspeed's launcher passes it")
    args = parser.parse_args()
    model = build_model()
    example = next(micro_batches(0))
    part = pipecodec.partition(model, kwargs=example, n_stages=int(os.environ["WORLD_SIZE"]))
    engine, *_ = pipecodec.deepspeed.initialize(part, config=CONFIG, optimizer=adamw)
    for step in range(args.steps):
        loss = engine.train_batch(micro_batches(step)).item()
        if dist.get_rank() == 0:
            print(f"step {step}: loss {loss:.4f}")

    state = pipecodec.deepspeed.model_state_dict(engine, part)  # on rank 0; None elsewhere
    if state is not None:
        model.save_pretrained(args.save, state_dict=state)
    outputs = engine.eval_batch(micro_batches(-1), compute_loss=False)  # on the last rank
    dist.barrier()  # the folder is written
    if outputs is not None:
        plain = GPT2LMHeadModel.from_pretrained(args.save).to(engine.device).eval()
        for batch, output in zip(micro_batches(-1), outputs, strict=True):
            with torch.no_grad():
                logits = plain(
                    **{name: value.to(engine.device) for name, value in batch.items()}
                ).logits
            print("equal logits:", torch.equal(logits, output.logits))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
