"""Makes further batches of one: of another size, and with other padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils import _pytree as pytree

from ..tape.batch import Batch

__all__ = ["other_padding", "other_sizes"]

_MASK = "attention_mask"
_SHORTEST = 5  # of the sequences that are shortened


def other_sizes(batch: Batch) -> Iterator[Batch]:
    """Yield batches of other sizes, the one that tells most first.

    One sample more and one position less; then one of both alone. Samples are the size that most
    tensors have first; positions are the second sizes of the integer tensors.
    """
    tensors = [
        leaf
        for leaf in pytree.tree_leaves(batch.inputs)
        if isinstance(leaf, torch.Tensor) and leaf.dim()
    ]
    if not tensors:
        return
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

    def shorter(tensor: torch.Tensor) -> torch.Tensor:
        # Without its first position, since padding is at the end.
        cut = tensor.dim() > 1 and tensor.shape[0] in (1, samples) and tensor.shape[1] in lengths
        return tensor[:, 1:].contiguous() if cut else tensor

    if lengths:
        yield batch.map(shorter).map(more)
    yield batch.map(more)
    if lengths:
        yield batch.map(shorter)


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
