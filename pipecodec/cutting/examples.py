"""Makes further batches of one: of another size, and with other padding."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from torch.utils import _pytree as pytree

from ..tape.batch import Batch

__all__ = ["Resized", "other_padding", "other_sizes"]

_MASK = "attention_mask"
_SHORTEST = 5  # of the sequences that are shortened


class Resized(NamedTuple):
    """A batch of another size, and which sizes are others."""

    batch: Batch
    samples: bool
    positions: bool


def other_sizes(batch: Batch) -> list[Resized]:
    """Return batches of other sizes, the one that tells most first.

    They have one sample more, or one position less, or both. Samples are the size that most tensors
    have first, or a divisor of it (the patches of an image); positions are the second sizes of the
    integer tensors.
    """
    tensors = [
        leaf
        for leaf in pytree.tree_leaves(batch.inputs)
        if isinstance(leaf, torch.Tensor) and leaf.dim()
    ]
    if not tensors:
        return []
    samples = Counter(tensor.shape[0] for tensor in tensors).most_common(1)[0][0]
    lengths = {
        tensor.shape[1]
        for tensor in tensors
        if not tensor.is_floating_point()
        and tensor.dim() == 2
        and tensor.shape[0] == samples
        and tensor.shape[1] >= _SHORTEST
    }

    def more(tensor: torch.Tensor) -> torch.Tensor:
        grows = tensor.dim() and tensor.shape[0] == samples
        return torch.cat([tensor, tensor[:1]]) if grows else tensor

    def more_blocks(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dim() or tensor.shape[0] % samples:
            return tensor
        return torch.cat([tensor, tensor[: tensor.shape[0] // samples]])

    def shorter(tensor: torch.Tensor) -> torch.Tensor:
        # Without its first position, since padding is at the end.
        cut = tensor.dim() > 1 and tensor.shape[0] in (1, samples) and tensor.shape[1] in lengths
        return tensor[:, 1:].contiguous() if cut else tensor

    def integers_shorter(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.is_floating_point() else shorter(tensor)

    cuts = [shorter, integers_shorter] if lengths else []
    grows = [more, more_blocks] if samples else []
    return [
        *(Resized(batch.map(cut).map(grow), True, True) for grow in grows for cut in cuts),
        *(Resized(batch.map(grow), True, False) for grow in grows),
        *(Resized(batch.map(cut), False, True) for cut in cuts),
    ]


def other_padding(batch: Batch) -> Batch | None:
    """Return the batch without padding if its attention mask has some, else with some; or None.

    Hugging Face's mask code takes another branch where nothing is padded.
    """
    mask = batch.inputs.get(_MASK)
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or mask.shape[1] < 2:
        return None
    if mask.dtype.is_floating_point or mask.is_meta or getattr(mask, "fake_mode", None):
        return None
    other = torch.ones_like(mask)
    if bool((mask == other).all()):
        other[0, -1] = 0
    return batch.with_input(_MASK, other)
