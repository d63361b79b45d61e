"""Small random models that ``pipecodec.partition`` cuts, and batches for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import pipecodec

from .engines import Grid, engine_for
from .training import Training, names_here

__all__ = ["MODELS", "Observed"]

VOCABULARY, WIDTH, LENGTH = 97, 32, 12

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_cache": False,
}
_GEMMA3N = {
    "head_dim": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * 6,
    "intermediate_size": [48] * 6,
}
_GLM = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "qk_nope_head_dim": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "index_topk": 4,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "first_k_dense_replace": 2,
    "indexer_types": ["full", "shared", "shared"] * 2,
}
_MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "dropout_rate": 0.0,
    "use_cache": False,
}


class _Layer(nn.Module):
    """Reads the residuals of all blocks before it."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Parameter(torch.randn(index + 1) / 2)

    def forward(self, hidden: Tensor, residuals: list[Tensor]) -> Tensor:
        read = sum(w * r for w, r in zip(self.mix, residuals, strict=True))
        return self.linear(hidden + read).tanh()


class BlockResiduals(nn.Module):
    """A language model whose layers read a list that grows from block to block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(_Layer(index) for index in range(6))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        hidden = self.embed(input_ids)
        residuals = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, residuals)
            residuals.append(hidden)
        logits = self.head(hidden)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def _language_model(name: str, config: str, settings: dict[str, Any]) -> nn.Module:
    made = getattr(transformers, config)(**{**_TEXT, **settings})
    made._attn_implementation = "sdpa"
    model: nn.Module = getattr(transformers, name)(made)
    return model


MODELS = {
    "gemma3n": lambda: _language_model("Gemma3nForCausalLM", "Gemma3nTextConfig", _GEMMA3N),
    "glm_moe_dsa": lambda: _language_model("GlmMoeDsaForCausalLM", "GlmMoeDsaConfig", _GLM),
    "llama": lambda: _language_model("LlamaForCausalLM", "LlamaConfig", {}),
    "llama, tied": lambda: _language_model(
        "LlamaForCausalLM", "LlamaConfig", {"tie_word_embeddings": True}
    ),
    "mixtral": lambda: _language_model("MixtralForCausalLM", "MixtralConfig", _MIXTRAL),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)),
    "block residuals": BlockResiduals,
}


@dataclass
class Observed(Training):
    """Trains a model of ``MODELS`` with AdamW and its own loss.

    Micro-batches are padded and full in turn, those of an evaluation of another size. ``options``
    are for ``pipecodec.partition``.
    """

    model: str
    grid: Grid = field(default_factory=lambda: Grid(3))
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    checkpointed: bool = False
    steps: int = 3
    evaluate: frozenset[int] = frozenset({1, 3})

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model = MODELS[self.model]()
        with torch.no_grad():  # not so small that everything is 0
            for parameter in model.parameters():
                if parameter.dim() > 1 or not parameter.isfinite().all():
                    parameter.normal_(0, 0.05)
        return model.to(self.dtype).train()

    def batch(self, seed: int, *, rows: int, length: int, padded: bool) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCABULARY, (rows, length), generator=random)
        targets = length - 4 if self.model == "t5" else length
        labels = torch.randint(3, VOCABULARY, (rows, targets), generator=random)
        if self.model == "block residuals":
            return {"input_ids": ids, "labels": labels}
        mask = torch.ones(rows, length, dtype=torch.long)
        if padded:
            mask[-1, -3:] = 0
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def batches(self, step: int, replica: int, *, evaluate: bool = False) -> Iterator[Any]:
        size = {"rows": 3, "length": 17} if evaluate else {"rows": 2, "length": LENGTH}
        for index in range(self.accumulate):
            seed = 100 * step + 10 * index + replica + 1000 * evaluate
            yield self.batch(seed, **size, padded=(index + step) % 2 == 0)

    def engine(self, model: nn.Module) -> tuple[Any, dict[nn.Parameter, str]]:
        part = pipecodec.partition(
            model,
            kwargs=self.batch(1, rows=2, length=LENGTH, padded=True),
            n_stages=self.grid.stages,
            **self.options,
        )
        engine = engine_for(
            part,
            self.grid,
            loss_fn=None,
            optimizer=self.optimizer,
            config={
                "bf16": {"enabled": self.precision == "bf16"},
                "pipeline": {"activation_checkpoint_interval": int(self.checkpointed)},
            },
        )
        return engine, names_here(engine, model)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    def loss(self, model: Any, batch: Any) -> Tensor:
        output = model(**batch)
        loss: Tensor = output["loss"]
        return loss
