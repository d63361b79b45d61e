"""Small models of Hugging Face that ``torch.distributed.pipelining.pipeline`` cuts, and batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

__all__ = ["CASES", "Case", "loss_fn"]

WORDS, WIDTH, HEADS, LAYERS, ROWS, LENGTH = 97, 32, 4, 4, 2, 12
BLOCK = (1, 3)
"""The layers before which a model is cut: three stages of one, two and one layers."""


@dataclass(frozen=True)
class Case:
    """A model by name, the modules that begin a stage, and the batches that it is given.

    With ``no_grad`` it is traced under ``torch.no_grad``: torch's splitter makes a graph of the
    models with rotary tables that does not run otherwise. ``batch(k)`` returns the model's inputs,
    all tensors, and labels.
    """

    name: str
    make: Callable[[], nn.Module]
    cuts: tuple[str, ...]
    batch: Callable[[int], tuple[dict[str, Tensor], Tensor]]
    no_grad: bool = False

    def model(self) -> nn.Module:
        """Return the model with the same random weights in every process."""
        torch.manual_seed(0)
        return self.make().train()

    def pipe(self, model: nn.Module) -> Any:
        """Return the ``Pipe`` that torch's splitter makes of ``model``."""
        from torch.distributed.pipelining import SplitPoint, pipeline

        inputs, _ = self.batch(0)
        with torch.no_grad() if self.no_grad else contextlib.nullcontext():
            return pipeline(model, (), inputs, dict.fromkeys(self.cuts, SplitPoint.BEGINNING))


def loss_fn(output: Any, labels: Tensor) -> Tensor:
    """Return the cross entropy of a model's logits, its output or the first item of that."""
    logits = output if isinstance(output, Tensor) else output[0]
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def _words(k: int) -> tuple[dict[str, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(k)
    ids = torch.randint(3, WORDS, (ROWS, LENGTH), generator=draw)
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[1, -3:] = 0
    labels = torch.randint(3, WORDS, (ROWS, LENGTH), generator=draw)
    return {"input_ids": ids, "attention_mask": mask}, labels


def _two_texts(k: int) -> tuple[dict[str, Tensor], Tensor]:
    inputs, labels = _words(k)
    return {**inputs, "decoder_input_ids": labels.flip(1)[:, :7].contiguous()}, labels[:, :7]


def _pictures(k: int) -> tuple[dict[str, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(k)
    return {"pixel_values": torch.randn(ROWS, 3, 16, 16, generator=draw)}, torch.tensor([1, 3])


def _blocks(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{k}" for k in BLOCK)


def _gpt2() -> nn.Module:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_positions": 64, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout, **_SHARED))


def _gpt_neo() -> nn.Module:
    dropout = {"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0}
    sizes = {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "window_size": 4}
    config = transformers.GPTNeoConfig(
        attention_types=[[["global", "local"], LAYERS // 2]],
        max_position_embeddings=64,
        **{**sizes, **dropout, **_SHARED},
    )
    return transformers.GPTNeoForCausalLM(config)


def _bert() -> nn.Module:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(max_position_embeddings=64, **_SIZES, **dropout, **_SHARED)
    return transformers.BertForMaskedLM(config)


def _vit() -> nn.Module:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=5, **_SIZES, **dropout)
    return transformers.ViTForImageClassification(config)


def _t5() -> nn.Module:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_heads": HEADS}
    layers = {"num_layers": LAYERS, "num_decoder_layers": LAYERS, "dropout_rate": 0.0}
    config = transformers.T5Config(
        decoder_start_token_id=0, pad_token_id=0, **{**sizes, **layers, **_SHARED}
    )
    return transformers.T5ForConditionalGeneration(config)


def _rotary(name: str, **more: Any) -> Callable[[], nn.Module]:
    """Return the maker of a causal model with rotary tables, by the prefix of its classes."""

    def make() -> nn.Module:
        config = getattr(transformers, f"{name}Config")(
            num_key_value_heads=2, max_position_embeddings=64, **{**_SIZES, **more, **_SHARED}
        )
        model: nn.Module = getattr(transformers, f"{name}ForCausalLM")(config)
        return model

    return make


_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
}
_SHARED: dict[str, Any] = {
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CASES = (
    Case("GPT-2", _gpt2, _blocks("transformer.h"), _words),
    Case("GPT-Neo", _gpt_neo, _blocks("transformer.h"), _words),
    Case("BERT", _bert, _blocks("bert.encoder.layer"), _words),
    Case("ViT", _vit, _blocks("vit.layers"), _pictures),
    Case("T5", _t5, ("decoder.block.0", "decoder.block.2"), _two_texts),
    Case("Llama", _rotary("Llama"), _blocks("model.layers"), _words, no_grad=True),
    Case("Qwen2", _rotary("Qwen2"), _blocks("model.layers"), _words, no_grad=True),
    Case("Qwen3", _rotary("Qwen3", head_dim=8), _blocks("model.layers"), _words, no_grad=True),
    Case(
        "Mixtral",
        _rotary("Mixtral", num_local_experts=4, num_experts_per_tok=2),
        _blocks("model.layers"),
        _words,
        no_grad=True,
    ),
)
