"""Trains an encoder-decoder: the encoder's output crosses to every stage of the decoder.

torchrun --nproc-per-node 3 examples/t5.py --save out
deepspeed --num_gpus 4 examples/t5.py --save out
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import T5Config, T5ForConditionalGeneration

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
    "steps_per_print": None,
}


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64}
    layers = {"num_layers": 3, "num_decoder_layers": 3, "num_heads": 4, "dropout_rate": 0.0}
    # Your own: T5ForConditionalGeneration.from_pretrained("folder or name", use_cache=False)
    return T5ForConditionalGeneration(
        T5Config(**sizes, **layers, decoder_start_token_id=0, use_cache=False)
    )


def micro_batches(step):
    """Texts with padding at their ends, the same on every rank; the target is the text reversed."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(CONFIG["gradient_accumulation_steps"]):
        tokens = torch.randint(2, 128, (2, 24), generator=generator)
        lengths = torch.randint(12, 25, (2, 1), generator=generator)
        mask = (torch.arange(24) < lengths).long()
        labels = tokens[:, -16:].flip(1)
        yield {"input_ids": tokens * mask, "attention_mask": mask, "labels": labels}


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
    engine, *_ = pipecodec.deepspeed.initialize(part, config=CONFIG, optimizer=adamw)

    for step in range(args.steps):
        loss = engine.train_batch(micro_batches(step)).item()
        if dist.get_rank() == 0:
            print(f"step {step}: loss {loss:.4f}")
    if args.save:
        state = pipecodec.deepspeed.model_state_dict(engine, part)  # on rank 0; None elsewhere
        if state is not None:
            model.save_pretrained(args.save, state_dict=state)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
