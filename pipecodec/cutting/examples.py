"""Makes further batches of one: of another size, and with other padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from typing import NamedTuple

import torch

from ..no_memory import without_memory
from ..tape.batch import Batch
from ..tape.structure import tensors_in

__all__ = ["Place", "Resized", "Sizes", "other_dtype", "other_padding", "other_sizes", "sizes_of"]

_MASK = "attention_mask"


Place = tuple[str, int]
"""A tensor among the inputs ("mask", or "kv.0" inside one), and one of its dimensions."""

Change = Callable[[torch.Tensor], torch.Tensor]


Sizes = tuple[tuple[Place, int], ...]


class Resized(NamedTuple):
    """A batch of other sizes, and the dimensions that differ."""

    batch: Batch
    sizes: Sizes
    changed: frozenset[Place]


def sizes_of(batch: Batch) -> dict[Place, int]:
    """Return the size of each dimension of each tensor among the inputs."""
    return {
        (".".join([name, *map(str, path)]), dimension): int(size)
        for name, value in batch.inputs.items()
        for path, tensor in tensors_in(value)
        for dimension, size in enumerate(tensor.shape)
    }


def other_sizes(batch: Batch) -> list[Resized]:
    """Return batches of other sizes, the one that tells most first.

    They have one sample more, or are shorter in all dimensions of one size, or both. Samples
    are the size that most tensors have first, or a divisor of it (the patches of an image).
    """
    sizes = sizes_of(batch)
    firsts = Counter(size for (_, dimension), size in sizes.items() if dimension == 0)
    if not firsts:
        return []
    samples = firsts.most_common(1)[0][0]
    lengths = {
        tensor.shape[1]
        for value in batch.inputs.values()
        for _, tensor in tensors_in(value)
        if not tensor.is_floating_point() and tensor.dim() == 2 and tensor.shape[0] == samples
    } - {0, 1}
    grows = [_more(samples), _more_blocks(samples)] if samples else []
    cuts = [_shorter(lengths, kind) for kind in (None, False, True)]
    others = sorted({size for (_, d), size in sizes.items() if d or size % max(samples, 1)})
    alone = [
        _shorter({size}, kind, by)
        for size in others
        if size > 1
        for by in {1: None, size - size // 2: None}
        for kind in (None, False, True)
    ]
    ways: list[list[Change]] = [[cut, grow] for grow in grows for cut in cuts if lengths]
    ways += [[grow] for grow in grows] + [[change] for change in alone]
    resized = [_resized(batch, sizes, way) for way in ways]
    return [one for one in resized if one.changed]


def _resized(batch: Batch, sizes: dict[Place, int], changes: list[Change]) -> Resized:
    for change in changes:
        batch = batch.map(change)
    new = sizes_of(batch)
    changed = frozenset(place for place, size in sizes.items() if new[place] != size)
    return Resized(batch, tuple(new.items()), changed)


def _more(samples: int) -> Change:
    def more(tensor: torch.Tensor) -> torch.Tensor:
        grows = tensor.dim() and tensor.shape[0] == samples
        return torch.cat([tensor, tensor[:1]]) if grows else tensor

    return more


def _more_blocks(samples: int) -> Change:
    def more(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dim() or tensor.shape[0] % samples:
            return tensor
        return torch.cat([tensor, tensor[: tensor.shape[0] // samples]])

    return more


def _shorter(sizes: Set[int], floating: bool | None, by: int = 1) -> Change:
    """Drop first positions of all such dimensions but samples: padding is at the end."""

    def shorter(tensor: torch.Tensor) -> torch.Tensor:
        if floating is not None and tensor.is_floating_point() is not floating:
            return tensor
        for dimension in range(1, tensor.dim()):
            if tensor.shape[dimension] in sizes:
                tensor = tensor.narrow(dimension, by, tensor.shape[dimension] - by).contiguous()
        return tensor

    return shorter


def other_padding(batch: Batch) -> Batch | None:
    """Return the batch without padding if its attention mask has some, else with some; or None.

    Hugging Face's mask code takes another branch where nothing is padded.
    """
    mask = batch.inputs.get(_MASK)
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or mask.shape[1] < 2:
        return None
    if mask.dtype.is_floating_point or without_memory(mask):
        return None
    other = torch.ones_like(mask)
    if bool((mask == other).all()):
        other[0, -1] = 0
    return batch.with_input(_MASK, other)


def other_dtype(batch: Batch, other: Batch) -> str:
    """Return a sentence about the first tensor that is of another dtype than in the first batch."""
    places = [dict(tensors_in(each.inputs)) for each in (batch, other)]
    for path, tensor in places[1].items():
        first = places[0].get(path)
        if first is not None and first.dtype is not tensor.dtype:
            name = ".".join(map(str, path))
            return (
                f"; its input {name!r} is {tensor.dtype}, and {first.dtype} in the first batch: "
                f"pass it as {first.dtype} (.to({first.dtype})), or cut the model in the precision "
                f"in which it takes both"
            )
    return ""
