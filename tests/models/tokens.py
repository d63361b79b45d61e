"""Parts of batches: tokens, masks and classes."""

from __future__ import annotations

from typing import Any

import torch

from .sizes import FIRST_WORD, VOCABULARY

__all__ = ["Batch", "classes", "mask_of", "words"]

Batch = dict[str, Any]


def words(batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Return int64[batch, length] of tokens that mean nothing special."""
    return torch.randint(FIRST_WORD, VOCABULARY, (batch, length), generator=generator)


def mask_of(batch: int, length: int, padded: bool, padding: int = 3) -> torch.Tensor:
    """Return int64[batch, length]: ones, and zeros at the end of the last row if padded."""
    mask = torch.ones(batch, length, dtype=torch.long)
    if padded:
        mask[-1, -padding:] = 0
    return mask


def classes(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Return int64[batch] labels of two classes."""
    return torch.randint(0, 2, (batch,), generator=generator)
