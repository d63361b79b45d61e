"""A small T5 from Hugging Face in hand-made stages: two towers, and values that skip stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.masking_utils import create_bidirectional_mask

from pipecodec.demo.by_hand import causal_mask

__all__ = ["build_t5", "t5_stages"]

BLOCKS = 3


def build_t5(vocabulary: int, *, tied: bool = False) -> T5ForConditionalGeneration:
    """Return the model with the same weights in every process.

    Hugging Face gives both towers and the head one weight. Summed over stages its gradients differ
    by rounding from those of one process, so that it is three unless ``tied``.
    """
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=BLOCKS,
            num_heads=4,
            dropout_rate=0.0,
            use_cache=False,
            decoder_start_token_id=0,
        )
    )
    if not tied:
        model.decoder.embed_tokens = nn.Embedding(vocabulary, 32)
        model.lm_head.weight = nn.Parameter(torch.randn(vocabulary, 32) / 8)
    return model


class _Encoder(nn.Module):
    def __init__(self, tower: Any, count: int) -> None:
        super().__init__()
        self.config, self.embed = tower.config, tower.embed_tokens
        self.blocks = nn.ModuleList(tower.block[:count])
        self.norm = tower.final_layer_norm if count == BLOCKS else nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        hidden = self.embed(input_ids)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden, attention_mask=attention_mask
        )
        bias = None
        for block in self.blocks:
            hidden, bias, _ = block(hidden, mask, bias)
        return {"encoded": self.norm(hidden), "bias": bias, "mask": mask}


class _EncoderRest(nn.Module):
    def __init__(self, tower: Any, begin: int) -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(tower.block[begin:]), tower.final_layer_norm

    def forward(self, encoded: Tensor, bias: Tensor, mask: Tensor) -> dict[str, Any]:
        for block in self.blocks:
            encoded, bias, _ = block(encoded, mask, bias)
        return {"encoded": self.norm(encoded)}


class _Decoder(nn.Module):
    """Makes the biases and masks that its own blocks and the next stage's share."""

    def __init__(self, tower: Any, count: int) -> None:
        super().__init__()
        self.config, self.embed = tower.config, tower.embed_tokens
        self.blocks = nn.ModuleList(tower.block[:count])

    def forward(
        self, encoded: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor
    ) -> dict[str, Any]:
        hidden = self.embed(decoder_input_ids)
        masks = (
            causal_mask(self.config, hidden),
            create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden,
                attention_mask=attention_mask,
                encoder_hidden_states=encoded,
            ),
        )
        hidden, biases = _decode(self.blocks, hidden, encoded, masks, (None, None))
        return {"hidden": hidden, "masks": masks, "biases": biases}


class _DecoderRest(nn.Module):
    def __init__(self, model: Any, begin: int) -> None:
        super().__init__()
        self.scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else None
        self.blocks = nn.ModuleList(model.decoder.block[begin:])
        self.norm, self.head = model.decoder.final_layer_norm, model.lm_head

    def forward(self, hidden: Tensor, encoded: Tensor, masks: Any, biases: Any) -> Tensor:
        hidden, _ = _decode(self.blocks, hidden, encoded, masks, biases)
        hidden = self.norm(hidden)
        logits: Tensor = self.head(hidden if self.scale is None else hidden * self.scale)
        return logits


def _decode(
    blocks: Iterable[nn.Module], hidden: Tensor, encoded: Tensor, masks: Any, biases: Any
) -> tuple[Tensor, Any]:
    for block in blocks:
        hidden, *biases = block(hidden, masks[0], biases[0], encoded, masks[1], biases[1])
    return hidden, tuple(biases)


def t5_stages(model: Any, count: int) -> list[nn.Module]:
    """Cut into 3 stages, or into 4 where the decoder begins in the third one."""
    encoder = (
        [_Encoder(model.encoder, BLOCKS)]
        if count == 3
        else [_Encoder(model.encoder, 2), _EncoderRest(model.encoder, 2)]
    )
    return [*encoder, _Decoder(model.decoder, 1), _DecoderRest(model, 1)]
