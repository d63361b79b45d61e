"""What is looked at while an engine trains, so that tied weights do not silently become several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["check_ties", "checksum", "steps_between_checks", "tie_check"]

_CHUNK = 1 << 23
"""Bytes of a weight that are looked at together, of which some copies are made."""

_GOLDEN = -0x61C8864680B583EB
"""2**64 divided by the golden ratio, as a signed number."""

_MIX = (-0xAE502812AA7333, -0x3B314601E57A13AD)
"""The factors with which MurmurHash3 lets every bit reach all bits, as signed numbers."""


def tie_check(engine: Any, every: int) -> Callable[[], None]:
    """Return what raises after a step of this engine if copies of a tied weight differ.

    It looks after every so many steps, never if ``every`` is 0. All ranks give the same number.
    """

    def check() -> None:
        if every and engine.global_steps % every == 0:
            check_ties(engine.module, engine.global_steps)

    return check


def steps_between_checks(every: Any) -> int:
    """Return ``every``; ``ValueError`` if it is no number of steps."""
    if not isinstance(every, int) or every < 0:
        raise ValueError(f"check_ties_every={every!r}: give a number of steps, or 0 for never")
    return every


def check_ties(module: Any, step: int) -> None:
    """Raise ``RuntimeError``, the same on every rank, if copies of a tied weight differ.

    A collective call, in which each rank sends 8 bytes for each tied weight; the host waits for it.
    Copies that differ in a single word never pass, others once in 2**64 times.
    """
    device = next(module.parameters()).device
    mine = torch.zeros(len(module.ties), dtype=torch.int64, device=device)
    for index, weight in module.held_weights().items():
        mine[index] = checksum(weight)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    sums = torch.stack(everyone).tolist()
    for index, (tie, fibres) in enumerate(zip(module.ties, module.tied_ranks, strict=True)):
        for ranks in fibres:
            equal: dict[int, list[str]] = {}
            for rank in ranks:
                pipe = module.topology().get_coord(rank).pipe
                path, stage = next(pair for pair in tie if module.stage_owner(pair[1]) == pipe)
                copy = f"{path} (stage {stage}) on rank {rank}"
                equal.setdefault(sums[rank][index], []).append(copy)
            if len(equal) > 1:
                raise RuntimeError(
                    f"after step {step} the copies of a tied weight are not equal any more: "
                    f"{' differs from '.join(' = '.join(names) for names in equal.values())}; "
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
