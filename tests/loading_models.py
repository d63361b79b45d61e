"""Small models of transformers, built in memory or on meta, and their folders."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pipecodec

transformers = pytest.importorskip("transformers")

# transformers asks for the address of experts, with torch before 2.11.
asks_for_addresses = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

_VOCABULARY = 61
_COMMON = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "output_router_logits": True}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_MARIAN = {
    "vocab_size": _VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _COMMON),
    "qwen3 tied": ("Qwen3ForCausalLM", "Qwen3Config", _COMMON | {"tie_word_embeddings": True}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _COMMON | _EXPERTS),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", _COMMON | _LATENT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": _VOCABULARY} | _GPT2 | _NO_DROPOUT),
    "marian": ("MarianMTModel", "MarianConfig", _MARIAN),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": _VOCABULARY, "decoder_start_token_id": 0, "pad_token_id": 0} | _T5,
    ),
}


def build(family: str) -> Any:
    """Return a model of this family in training mode, on the default device."""
    model, config, settings = FAMILIES[family]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**settings)).train()


def on_meta(family: str) -> Any:
    """Return a model of this family without memory."""
    with torch.device("meta"):
        return build(family)


def batch() -> dict[str, torch.Tensor]:
    """Return two sequences, one of them padded, with labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, _VOCABULARY, (2, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}


@functools.cache
def _partition(family: str, n_stages: int) -> pipecodec.Partition:
    return pipecodec.partition(on_meta(family), kwargs=batch(), n_stages=n_stages)


def partition(family: str, n_stages: int = 3) -> pipecodec.Partition:
    """Return a partition of a model on meta, which nothing else has."""
    return copy.deepcopy(_partition(family, n_stages))


def save(model: Any, folder: Path) -> Path:
    """Write a model in shards, as transformers does."""
    model.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers, under all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare dtype, shape and bits."""
    pair = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*pair)
