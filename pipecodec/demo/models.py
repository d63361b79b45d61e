"""A small GPT-2 and a small Llama from Hugging Face."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from pipecodec.demo.data import VOCABULARY
from pipecodec.demo.settings import BLOCKS

__all__ = ["build_model"]

_WIDTH, _HEADS = 128, 4


def _gpt2(attention: str, tied: bool, width: int, blocks: int) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=256,
            n_embd=width,
            n_layer=blocks,
            n_head=_HEADS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=attention,
        )
    )


def _llama(attention: str, tied: bool, width: int, blocks: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=blocks,
            num_attention_heads=_HEADS,
            num_key_value_heads=_HEADS // 2,
            max_position_embeddings=256,
            use_cache=False,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=attention,
        )
    )


_MODELS: dict[str, Callable[[str, bool, int, int], PreTrainedModel]] = {
    "gpt2": _gpt2,
    "llama": _llama,
}


def build_model(
    name: str,
    *,
    attention: str = "sdpa",
    tied: bool = False,
    seed: int = 0,
    width: int = _WIDTH,
    blocks: int = BLOCKS,
) -> PreTrainedModel:
    """Return the unsplit model, in training mode, with the weights that ``seed`` gives everywhere.

    ``attention`` is Hugging Face's name of the implementation: with "sdpa" the causal mask is a
    bool tensor, with "eager" a float32 one without gradient. ``tied``: the output head's weight is
    that of the token embedding, and so one of the first and of the last stage. ``width`` is the
    hidden state's size, a multiple of 4.
    """
    torch.manual_seed(seed)
    model = _MODELS[name](attention, tied, width, blocks)
    model.train()
    return model
