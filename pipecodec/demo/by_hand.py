"""Stages of the demo's models made by hand, with the plumbing that ``partition`` does by itself.

A stage is a plain module: the parameters of its ``forward`` name the values it takes, the keys of
the dict it returns name the values it gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_causal_mask

from pipecodec.demo.data import VOCABULARY

__all__ = ["causal_lm_loss", "causal_mask", "cut_into_stages"]

_MASK_TAKES = inspect.signature(create_causal_mask).parameters
_CACHE = "cache" if "cache" in _MASK_TAKES else "past_key_values"  # before transformers 5.24


class _Gpt2Blocks(nn.Module):
    """Consecutive blocks of a GPT-2; a middle stage is nothing else."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        for block in self.blocks:
            hidden = block(hidden, attention_mask=mask, position_ids=position_ids)
        return {"hidden": hidden}


class _Gpt2First(nn.Module):
    def __init__(self, model: PreTrainedModel, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.config = model.config
        self.wte = model.transformer.wte
        self.wpe = model.transformer.wpe
        self.blocks = _Gpt2Blocks(blocks)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        embeddings = self.wte(input_ids)
        position_ids, mask = _positions_and_mask(self.config, embeddings, attention_mask)
        hidden = embeddings + self.wpe(position_ids)
        given = self.blocks(hidden, mask, position_ids)
        return {**given, "mask": mask, "position_ids": position_ids}


class _Gpt2Last(nn.Module):
    def __init__(self, model: PreTrainedModel, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = _Gpt2Blocks(blocks)
        self.ln_f = model.transformer.ln_f
        self.lm_head = model.lm_head

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.blocks(hidden, mask, position_ids)["hidden"]
        logits: torch.Tensor = self.lm_head(self.ln_f(hidden))
        return logits


class _LlamaBlocks(nn.Module):
    """Consecutive layers of a Llama; a middle stage is nothing else."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position_ids,
                position_embeddings=rotary,
            )
        return {"hidden": hidden}


class _LlamaFirst(nn.Module):
    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.config = model.config
        self.embed_tokens = model.model.embed_tokens
        self.rotary_emb = model.model.rotary_emb
        self.layers = _LlamaBlocks(layers)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        embeddings = self.embed_tokens(input_ids)
        position_ids, mask = _positions_and_mask(self.config, embeddings, attention_mask)
        rotary = self.rotary_emb(embeddings, position_ids=position_ids)
        given = self.layers(embeddings, mask, position_ids, rotary)
        return {**given, "mask": mask, "position_ids": position_ids, "rotary": rotary}


class _LlamaLast(nn.Module):
    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = _LlamaBlocks(layers)
        self.norm = model.model.norm
        self.lm_head = model.lm_head

    def forward(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        hidden = self.layers(hidden, mask, position_ids, rotary)["hidden"]
        logits: torch.Tensor = self.lm_head(self.norm(hidden))
        return logits


def _positions_and_mask(
    config: Any, embeddings: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    position_ids = torch.arange(embeddings.shape[1], device=embeddings.device).unsqueeze(0)
    return position_ids, causal_mask(config, embeddings, attention_mask, position_ids)


def causal_mask(
    config: Any,
    embeddings: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mask that a model of transformers makes where it has no cache."""
    mask: torch.Tensor = create_causal_mask(
        config=config,
        inputs_embeds=embeddings,
        attention_mask=attention_mask,
        position_ids=position_ids,
        **{_CACHE: None},
    )
    return mask


def cut_into_stages(model: PreTrainedModel, count: int) -> list[nn.Module]:
    """Cut ``model`` into ``count`` stages that share its parameters, blocks spread evenly.

    Raises ``ValueError`` unless ``2 <= count <=`` the model's number of blocks.
    """
    gpt2 = isinstance(model, GPT2LMHeadModel)
    blocks = list(model.transformer.h if gpt2 else model.model.layers)
    if not 2 <= count <= len(blocks):
        raise ValueError(f"{count} stages: give 2 to {len(blocks)}, the model's number of blocks")
    first, middle, last = (
        (_Gpt2First, _Gpt2Blocks, _Gpt2Last) if gpt2 else (_LlamaFirst, _LlamaBlocks, _LlamaLast)
    )
    ends = [len(blocks) * stage // count for stage in range(count + 1)]
    shares = [blocks[start:end] for start, end in pairwise(ends)]
    return [
        first(model, shares[0]),
        *(middle(share) for share in shares[1:-1]),
        last(model, shares[-1]),
    ]


def causal_lm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss the unsplit model computes from its logits: the mean over labelled tokens."""
    loss: torch.Tensor = ForCausalLMLoss(logits, labels, vocab_size=VOCABULARY)
    return loss
