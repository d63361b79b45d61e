"""Hand-made stages of small models: other values cross, are used and are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .case import Batch

__all__ = ["WIDTH", "WORDS", "First", "Last", "Middle", "batch", "chain"]

WIDTH, WORDS = 16, 50


class First(nn.Module):
    """Gives a hidden state, one that skips stages, a mask, and much that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.unused = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Any:
        hidden = self.embed(ids)
        return {
            "hidden": self.linear(hidden),
            "skip": hidden * scale,
            "mask": mask,
            "extra": {"n": 3, "none": None, "lost": self.unused(hidden)},
        }


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": hidden + torch.tanh(self.linear(self.norm(hidden)))}


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(
        self,
        hidden: Tensor,
        skip: Tensor | None = None,
        mask: Tensor | None = None,
        extra: Any = None,
    ) -> Any:
        hidden = self.linear(hidden)
        if skip is not None:
            hidden = hidden + skip
        if mask is not None:
            hidden = hidden.masked_fill(~mask[..., None], 0.0)
        return {"logits": self.head(hidden), "extra": None if extra is None else extra["n"]}


def chain(first: Any = First, middle: Any = Middle, last: Any = Last) -> Callable[[int], Any]:
    """Return a function that makes two or more stages."""
    return lambda count: [first(), *(middle() for _ in range(count - 2)), last()]


def batch(step: int, chunks: int, evaluate: bool, rows: int = 2, masked: bool = True) -> Batch:
    random = torch.Generator().manual_seed(step + 100 * evaluate)
    shape = (rows * chunks + chunks * evaluate, 6 + 3 * evaluate)
    kwargs = {"ids": torch.randint(0, WORDS, shape, generator=random)}
    if masked:
        kwargs["mask"] = torch.rand(shape, generator=random) > 0.2
    return Batch.of(kwargs, torch.randint(0, WORDS, shape, generator=random), chunks)
