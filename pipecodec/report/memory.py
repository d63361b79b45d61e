"""The memory of each stage: weights, gradients, optimizer states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..stages.partition import Partition
from ..stages.ties import memory_of
from .facts import StageReport

__all__ = ["STATES", "check_optimizer", "stage_reports"]

STATES = {
    "sgd": 0,
    "momentum": 1,
    "adagrad": 1,
    "rmsprop": 1,
    "lion": 1,
    "muon": 1,
    "adam": 2,
    "adamw": 2,
    "lamb": 2,
}
"""States of an optimizer for each element of a weight."""


def check_optimizer(optimizer: str | int) -> tuple[str, int]:
    """Return an optimizer's name and number of states; ValueError if it is unknown."""
    if isinstance(optimizer, int) and not isinstance(optimizer, bool) and optimizer >= 0:
        return f"{optimizer} states", optimizer
    if not isinstance(optimizer, str) or optimizer.lower() not in STATES:
        raise ValueError(
            f"optimizer is one of {', '.join(map(repr, STATES))}, or the number of states that it "
            f"keeps for each element of a weight, not {optimizer!r}"
        )
    return optimizer.lower(), STATES[optimizer.lower()]


def stage_reports(
    part: Partition, states: int, seconds: Sequence[float] | None
) -> tuple[StageReport, ...]:
    """Describe the stages; `seconds` are the times of their forwards, if they were run."""
    cut = part.cut
    total = sum(seconds) if seconds else 0.0
    reports = []
    for k, stage in enumerate(part.stages):
        parameters = _distinct(stage.parameters())
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        begins = cut.split[k - 1] if cut is not None and k else type(stage).__name__
        reports.append(
            StageReport(
                index=k,
                module=begins,
                parameters=sum(map(torch.Tensor.numel, parameters)),
                trainable=sum(map(torch.Tensor.numel, trainable)),
                frozen=bool(parameters) and not trainable,
                tied=tuple(p for pairs in part.tie_weights.values() for p, s in pairs if s == k),
                weight_bytes=sum(map(_bytes, [*parameters, *_distinct(stage.buffers())])),
                gradient_bytes=sum(map(_bytes, trainable)),
                optimizer_bytes=sum(_optimizer_bytes(each, states) for each in trainable),
                seconds=None if seconds is None else seconds[k],
                share=None if seconds is None or not total else seconds[k] / total,
            )
        )
    return tuple(reports)


def _distinct(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    found: dict[object, torch.Tensor] = {}
    for tensor in tensors:
        found.setdefault(memory_of(tensor), tensor)
    return list(found.values())


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _optimizer_bytes(parameter: torch.Tensor, states: int) -> int:
    """Return the bytes of an optimizer's states for one weight.

    Those of a 16-bit weight are fp32, beside an fp32 master weight, and for bf16 an fp32 gradient,
    as DeepSpeed's optimizers keep them.
    """
    if parameter.element_size() >= 4:
        return _bytes(parameter) * states
    return 4 * parameter.numel() * (states + 1 + (parameter.dtype is torch.bfloat16))
