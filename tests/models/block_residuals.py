"""A model whose layers read the outputs of all blocks before them, as those of Kimi K3 do.

Every few layers end a block, whose sum joins a list. Each layer attends over that list, so the list
crosses every cut, is longer at each, and gets gradients from all stages behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["BlockResiduals", "Output"]

VOCABULARY, WIDTH = 29, 16


@dataclass
class Output:
    """The loss, the logits, and the residual of every block."""

    loss: torch.Tensor
    logits: torch.Tensor
    blocks: list[torch.Tensor]


torch.utils._pytree.register_dataclass(Output)


class Layer(nn.Module):
    """Mixes the residuals of all blocks with weights of its own, and transforms the mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, 1, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, partial: torch.Tensor, blocks: list[torch.Tensor]) -> torch.Tensor:
        sources = torch.stack([*blocks, partial])
        weights = self.query(self.norm(sources)).softmax(dim=0)
        mixed = (weights * sources).sum(dim=0)
        return partial + self.dropout(self.down(self.up(mixed).relu()))


class BlockResiduals(nn.Module):
    """A language model of `layers` layers, whose blocks are of `block` layers each."""

    def __init__(self, layers: int = 8, block: int = 2) -> None:
        super().__init__()
        self.block = block
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Output:
        """Take int64[batch, length] twice."""
        partial = self.embed(input_ids)
        blocks = [partial]
        for i, layer in enumerate(self.layers):
            if i and i % self.block == 0:
                blocks.append(partial)
                partial = torch.zeros_like(partial)
            partial = layer(partial, blocks)
        blocks.append(partial)
        logits = self.head(torch.stack(blocks).sum(dim=0))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Output(loss, logits, blocks)
