"""Checks during training that the copies of a tied weight stay equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ..arguments import whole_number

__all__ = ["check_ties", "checksum", "local_part", "steps_between_checks"]

_CHUNK = 1 << 23
"""Bytes of a weight in one chunk of the checksum, which makes some copies of it."""

_GOLDEN = -0x61C8864680B583EB
"""2**64 divided by the golden ratio, as a signed number."""

_MIX = (-0xAE502812AA7333, -0x3B314601E57A13AD)
"""The factors with which MurmurHash3 lets every bit reach all bits, as signed numbers."""


def steps_between_checks(every: Any) -> int:
    """Return ``every``; ``ValueError`` if it is no number of steps."""
    whole_number("check_ties_every", every, "a number of steps, or 0 for never", 0)
    return int(every)


def check_ties(
    weights: Mapping[int, torch.Tensor],
    copies: Sequence[Sequence[Mapping[int, str]]],
    step: int,
    device: torch.device,
) -> None:
    """Raise ``RuntimeError``, the same on every rank, if copies of a tied weight differ.

    ``weights`` are those that this rank has, by the index of the tie. ``copies`` has for each tie
    the groups of ranks that hold one weight together: the name of the copy by rank. A collective
    call, in which each rank sends 8 bytes for each tie, over ``device``; the host waits for it.
    Copies that differ in a single word never pass, others once in 2**64 times.
    """
    mine = torch.zeros(len(copies), dtype=torch.int64, device=device)
    for index, weight in weights.items():
        mine[index] = checksum(weight)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    sums = torch.stack(everyone).tolist()
    for index, groups in enumerate(copies):
        for names in groups:
            equal: dict[int, list[str]] = {}
            for rank, name in names.items():
                equal.setdefault(sums[rank][index], []).append(f"{name} on rank {rank}")
            if len(equal) > 1:
                raise RuntimeError(
                    f"after step {step} the copies of a tied weight are not equal any more: "
                    f"{' differs from '.join(' = '.join(same) for same in equal.values())}; "
                    f"something changes them one by one: code that writes to parameters beside "
                    f"the optimizer, or optimizers or checkpoints that differ between ranks"
                )


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Return a number of 64 bits, on the tensor's device, that depends on each bit and its place.

    int64, without dimensions. Takes a few passes over the tensor and little memory.
    """
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for start in range(0, data.numel(), _CHUNK):
        chunk = data[start : start + _CHUNK]
        padded = chunk.new_zeros(-(-chunk.numel() // 8) * 8)  # aligned, as the parameter may not be
        padded[: chunk.numel()] = chunk
        words = padded.view(torch.int64)
        # Integers wrap, and the mask makes each shift a logical one.
        words += torch.arange(start, start + words.numel(), device=data.device) * _GOLDEN
        for factor in _MIX:
            words ^= words >> 33 & 0x7FFFFFFF
            words *= factor
        total += (words ^ (words >> 33 & 0x7FFFFFFF)).sum()
    return total


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's own memory on this rank: all of it, or a DTensor's part."""
    own: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own
