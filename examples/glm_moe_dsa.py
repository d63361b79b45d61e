"""Trains GLM-MoE-DSA: chosen tokens (int32 indices) cross to layers that share them.

torchrun --nproc-per-node 3 examples/glm_moe_dsa.py --save out
deepspeed --num_gpus 4 examples/glm_moe_dsa.py --save out
"""

import argparse
import os

import torch
import torch.distributed as dist
from transformers import GlmMoeDsaConfig, GlmMoeDsaForCausalLM

import pipecodec

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,  # micro-batches of a step
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
    "steps_per_print": None,
}


def build_model():
    torch.manual_seed(0)  # the same model on every rank
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 6}
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 8}
    rotary = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    index = {"index_n_heads": 4, "index_head_dim": 8, "index_topk": 8}
    shared = {"indexer_types": ["full", "shared", "shared"] * 2}  # 2 layers use the first's indices
    routed = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    dense = {"first_k_dense_replace": 2, "n_group": 1, "topk_group": 1, "use_cache": False}
    # Your own: AutoModelForCausalLM.from_pretrained("folder or name", use_cache=False)
    return GlmMoeDsaForCausalLM(
        GlmMoeDsaConfig(**sizes, **heads, **latent, **rotary, **index, **shared, **routed, **dense)
    )


def micro_batches(step):
    """Rows that count from a random token, the same on every rank: a model can learn them."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(CONFIG["gradient_accumulation_steps"]):
        start = torch.randint(128, (2, 1), generator=generator)
        tokens = (start + torch.arange(24)) % 128
        yield {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


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
    if os.environ["RANK"] == "0":  # the values at each boundary, and all that will fail
        print(pipecodec.doctor(part, **example))
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
