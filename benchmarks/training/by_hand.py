"""Stages as plain tuples of tensors: the least that a user could write that trains right.

The hidden state crosses and, on DeepSpeed's engine, the padding mask, since a stage between gets no
batch; on torch's schedules every rank passes the mask to ``step``. Each stage makes the causal mask
and the rotary tables itself, in a few calls: float tables without a gradient cannot cross
DeepSpeed's boundaries. Labels are the loss function's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.cases import Case

__all__ = ["TensorStage", "TupleStage", "named_stages"]


class _Blocks(nn.Module):
    """Stage ``number`` of a model: some blocks, the embedding before or the head behind them."""

    def __init__(self, case: Case, model: Any, number: int) -> None:
        super().__init__()
        self.llama = case.model == "llama"
        self.first, self.last = number == 0, number == case.stages - 1
        inner = model.model if self.llama else model.transformer
        blocks = inner.layers if self.llama else inner.h
        self.blocks = nn.ModuleList(blocks[case.ends[number] : case.ends[number + 1]])
        if self.llama:
            self.rotary = inner.rotary_emb
        if self.first:
            self.embedding = inner.embed_tokens if self.llama else inner.wte
            self.positions = None if self.llama else inner.wpe
        if self.last:
            self.norm = inner.norm if self.llama else inner.ln_f
            self.head = model.lm_head

    def run(self, hidden: Tensor, padding: Tensor) -> Tensor:
        length = padding.shape[1]
        place = torch.arange(length).unsqueeze(0)
        mask = padding.bool()[:, None, None, :] & torch.ones(length, length).tril().bool()
        if self.first:
            hidden = self.embedding(hidden)
            if self.positions is not None:
                hidden = hidden + self.positions(place)
        tables = {"position_embeddings": self.rotary(hidden, place)} if self.llama else {}
        for block in self.blocks:
            hidden = block(hidden, attention_mask=mask, **tables)
        return self.head(self.norm(hidden)) if self.last else hidden


class TupleStage(_Blocks):
    """For DeepSpeed's engine, which hands a stage the tuple that the one before returned."""

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        hidden, padding = inputs
        hidden = self.run(hidden, padding)
        return hidden if self.last else (hidden, padding)


class TensorStage(_Blocks):
    """For torch's schedules: the padding mask is an argument of ``step`` on every rank."""

    def forward(self, hidden: Tensor, padding: Tensor) -> Tensor:
        return self.run(hidden, padding)


class _NamedFirst(_Blocks):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"hidden": self.run(input_ids, attention_mask)}


class _NamedMiddle(_Blocks):
    def forward(self, hidden: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"hidden": self.run(hidden, attention_mask)}


class _NamedLast(_Blocks):
    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        return self.run(hidden, attention_mask)


def named_stages(case: Case, model: Any) -> list[nn.Module]:
    """Return the same stages for ``pipecodec.partition_modules``: with names in place of tuples."""
    last = case.stages - 1
    return [
        (_NamedFirst if k == 0 else _NamedLast if k == last else _NamedMiddle)(case, model, k)
        for k in range(case.stages)
    ]
