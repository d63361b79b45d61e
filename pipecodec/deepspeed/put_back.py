"""A flat optimizer's changes to parameters without a gradient are undone.

In bf16, fp16 and with ZeRO, DeepSpeed's optimizers step on one flat tensor for each group, where a
parameter without a gradient has zeros: weight decay and momentum move it. Its slices, of the
weights and of all state of the same size, are put back after the step, before the model gets its
copies. A state that the flat tensor has once, such as Adam's count of steps, goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .presence import Presence

__all__ = ["put_unused_back"]

Slices = dict[torch.Tensor, list[tuple[torch.Tensor, int, int]]]
"""For each flat tensor its parameters, each with the start and the end of its part here."""


def put_unused_back(engine: Any, presence: Presence) -> None:
    """Let steps of this engine's optimizer leave the unused parameters of ``presence`` as they are.

    For an optimizer that steps on the parameters themselves, where these have no gradient, it does
    nothing. Steps in which every parameter has a gradient do no more than before.
    """
    if engine.optimizer is None or engine.optimizer is engine.basic_optimizer:
        return
    optimizer = engine.optimizer.optimizer  # DeepSpeed may have replaced the one it was given
    single = getattr(engine.optimizer, "fp32_groups", None)
    if single is not None:  # FP16_UnfusedOptimizer, with one master weight for each parameter
        masters = dict(
            pair
            for half, full in zip(engine.optimizer.fp16_groups, single, strict=True)
            for pair in zip(half, full, strict=True)
        )

        def without_gradients(*_: Any) -> None:
            for parameter in presence.unused & masters.keys():
                masters[parameter].grad = None

        optimizer.register_step_pre_hook(without_gradients)
        return
    slices = _slices(engine.optimizer)
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def save(*_: Any) -> None:
        saved.clear()  # of a step that failed
        if presence.unused:
            saved.extend(_saved(optimizer, slices, presence))

    def put_back(*_: Any) -> None:
        with torch.no_grad():
            for tensor, value in saved:
                tensor.copy_(value)
        saved.clear()

    optimizer.register_step_pre_hook(save)
    optimizer.register_step_post_hook(put_back)


def _saved(
    optimizer: Any, slices: Slices, presence: Presence
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the slices that the step must leave as they are, each with a copy."""
    for group in optimizer.param_groups:  # with ZeRO it is one at a time
        for flat in group["params"]:
            state = optimizer.state.get(flat, {})
            kept = [flat.detach(), *(v for v in state.values() if _as_large(v, flat))]
            for parameter, start, end in slices.get(flat, []):
                if parameter not in presence.unused:
                    continue
                for tensor in kept:
                    yield tensor[start:end], tensor[start:end].clone()
                if not state:
                    # The first step makes it of weights and gradient: zeros give its initial
                    # state.
                    flat.detach()[start:end].zero_()


def _as_large(value: Any, flat: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == flat.shape


def _slices(optimizer: Any) -> Slices:
    """Return where the parameters of an optimizer of DeepSpeed's are in its flat tensors."""
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # ZeRO
        flats = optimizer.single_partition_of_fp32_groups
        groups, offsets = optimizer.round_robin_bit16_groups, optimizer.round_robin_bit16_offsets
        ranks = [torch.distributed.get_rank(group) for group in optimizer.real_dp_process_group]
    elif hasattr(optimizer, "bf16_groups"):
        flats, groups = optimizer.fp32_groups_flat_partition, optimizer.bf16_groups
        offsets = [_offsets(group) for group in groups]
        ranks = [torch.distributed.get_rank(group) for group in optimizer.real_dp_process_group]
    else:
        flats, groups = optimizer.fp32_groups_flat, optimizer.fp16_groups
        offsets, ranks = [_offsets(group) for group in groups], [0] * len(groups)
    slices: Slices = {}
    for flat, group, begins, rank in zip(flats, groups, offsets, ranks, strict=True):
        first, size = rank * flat.numel(), flat.numel()  # of this rank's part
        slices[flat] = [
            (parameter, max(begin - first, 0), min(begin - first + parameter.numel(), size))
            for parameter, begin in zip(group, begins, strict=True)
            if first - parameter.numel() < begin < first + size
        ]
    return slices


def _offsets(group: list[torch.Tensor]) -> list[int]:
    begins = [0]
    for parameter in group:
        begins.append(begins[-1] + parameter.numel())
    return begins[:-1]
