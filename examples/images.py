"""Trains a model of images and text (LLaVA): pixels enter the first stage, its features cross.

torchrun --nproc-per-node 2 examples/images.py --save out
deepspeed --num_gpus 4 examples/images.py --save out
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import LlavaConfig, LlavaForConditionalGeneration

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
    "steps_per_print": None,
}
IMAGE = 127  # the token in whose places the features of an image go, one for each of its 16 patches


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    vision = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}
    text = {"model_type": "llama", "vocab_size": 128, "num_key_value_heads": 2, "use_cache": False}
    # Your own: AutoModelForImageTextToText.from_pretrained("folder or name")
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision | small | {"num_hidden_layers": 2, "projection_dim": 32},
            text_config=text | small | {"num_hidden_layers": 4},
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )
    )


def micro_batches(step):
    """An image and a text about it in each row, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(CONFIG["gradient_accumulation_steps"]):
        text = torch.randint(100, (2, 16), generator=generator)
        tokens = torch.cat([torch.full((2, 16), IMAGE), text], dim=1)
        pixels = torch.randn(2, 3, 32, 32, generator=generator)
        labels = tokens.masked_fill(tokens == IMAGE, -100)
        yield {"input_ids": tokens, "pixel_values": pixels, "labels": labels}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", help="folder for save_pretrained")
    parser.add_argument("--local_rank", help="deepspeed's launcher passes it")
    args = parser.parse_args()
    model, stages = build_model(), int(os.environ["WORLD_SIZE"])
    part = pipecodec.partition(model, kwargs=next(micro_batches(0)), n_stages=stages)
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
