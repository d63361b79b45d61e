"""Two stages with a boundary between them, in one process, wrapped and written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipecodec import partition_modules
from pipecodec.deepspeed import DeepSpeedPipeStageWrapper

__all__ = ["BY_HAND", "WRAPPED", "Crossing"]


class _First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.weight, mask


class _Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return (hidden * self.weight).sum()


class Crossing:
    """A forward and a backward of one micro-batch, with what the engine does to what crosses.

    The stages do next to nothing, so what they take is the boundary's. ``hand_over`` is the
    engine's receiving side: a copy out of its buffer, and another one for the stage.
    """

    def __init__(self, first: nn.Module, last: nn.Module, batch: tuple[Tensor, ...]) -> None:
        self.first, self.last, self.batch = first, last, batch

    def __call__(self) -> Any:
        sent = self.first(self.batch)
        received = self.hand_over(sent)
        self.last(tuple(tensor.clone() for tensor in received)).backward()
        (out,) = (tensor for tensor in sent if tensor.is_floating_point())
        (back,) = (tensor.grad for tensor in received if tensor.grad is not None)
        out.backward(back)

    @staticmethod
    def hand_over(sent: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in sent
        )


class _Tuples(nn.Module):
    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, inputs: tuple[Tensor, ...]) -> Any:
        return self.stage(*inputs)


def _by_hand(batch: tuple[Tensor, ...]) -> Crossing:
    return Crossing(_Tuples(_First()), _Tuples(_Last()), batch)


def _wrapped(batch: tuple[Tensor, ...]) -> Crossing:
    part = partition_modules([_First(), _Last()], ["x", "mask"])
    first, last = (
        DeepSpeedPipeStageWrapper(
            stage, k, f"submod_{k}", 2, part.liveness, part.stage_id_2_arg_names
        )
        for k, stage in enumerate(part.stages)
    )
    return Crossing(first, last, batch)


Maker = Callable[[tuple[Tensor, ...]], Crossing]
BY_HAND: Maker = _by_hand
WRAPPED: Maker = _wrapped
