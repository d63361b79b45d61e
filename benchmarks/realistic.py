"""Values that cross boundaries of real models, rebuilt from plain tensors.

Each holds the arguments of a block in a tiny model of transformers 5.18.0, recorded in training:
the positional ones, then a dict of the keyword ones. Nesting, dtypes, strides and which tensors
require a gradient are as recorded there; the sizes are those of the tiny models.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.structures import Structure

__all__ = ["realistic"]

BATCH, LENGTH, TARGET, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH = 2, 12, 7, 32, 4, 2, 8
CACHED_LAYERS = 32
"""As many as Llama 2 7B has."""


def realistic() -> list[Structure]:
    """Return R1 to R5; all tensors are distinct."""
    return [_gpt2(), _gpt2_exported(), _llama(), _t5(), _llama_with_cache()]


def _hidden(length: int = LENGTH) -> torch.Tensor:
    return torch.ones(BATCH, length, WIDTH, requires_grad=True)


def _mask(length: int = LENGTH, seen: int = LENGTH) -> torch.Tensor:
    return torch.ones(BATCH, 1, length, seen, dtype=torch.bool)


def _positions(length: int = LENGTH) -> torch.Tensor:
    return torch.arange(length).unsqueeze(0)


def _rotary(length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(1, length, HEAD_WIDTH), torch.zeros(1, length, HEAD_WIDTH)


def _gpt2() -> Structure:
    keywords = {
        "encoder_attention_mask": None,
        "use_cache": False,
        "position_ids": _positions(),
    }
    return Structure("R1", "GPT-2", (_hidden(), None, _mask(), None, keywords))


def _gpt2_exported() -> Structure:
    hidden, mask = _hidden(), _mask()
    return Structure(
        "R2",
        "GPT-2, exported, any length",
        (hidden, BATCH, LENGTH, mask),
        lambda i: (hidden, BATCH, i, mask),
    )


def _llama() -> Structure:
    keywords = {
        "attention_mask": _mask(),
        "position_embeddings": _rotary(),
        "position_ids": _positions(),
        "past_key_values": None,
        "use_cache": False,
    }
    return Structure("R3", "Llama", (_hidden(), keywords))


def _t5() -> Structure:
    # The decoder's position bias is a lookup by distance, its heads moved to the front.
    bias = torch.ones(1, TARGET, TARGET, HEADS, requires_grad=True).permute(0, 3, 1, 2)
    value = (
        _hidden(TARGET),
        None,
        bias,
        _hidden(),  # the encoder's
        _mask(TARGET),
        torch.zeros(1, HEADS, TARGET, LENGTH),
        {"past_key_values": None},
    )
    return Structure("R4", "T5 decoder", value)


def _llama_with_cache() -> Structure:
    def key_or_value() -> torch.Tensor:
        return torch.ones(BATCH, KV_HEADS, LENGTH, HEAD_WIDTH)

    keywords: dict[str, Any] = {
        "attention_mask": _mask(1),
        "position_embeddings": _rotary(1),
        "position_ids": _positions(1),
        # In the place of transformers' DynamicCache: its layers' keys and values.
        "past_key_values": tuple((key_or_value(), key_or_value()) for _ in range(CACHED_LAYERS)),
        "use_cache": True,
    }
    return Structure("R5", "Llama, cache of 32 layers", (_hidden(1).detach(), keywords))
