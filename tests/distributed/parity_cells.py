"""The cells of the parity table: an optimizer, a precision, a ZeRO stage, replicas, a kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .parity_models import KINDS, SHARDED, batches
from .sharded import SHARDS

__all__ = [
    "CELLS",
    "FURTHER",
    "KINDS",
    "OPTIMIZERS",
    "PRECISIONS",
    "Cell",
    "allow_fp16",
    "optimizer_of",
]

_SGD, _ADAMW = torch.optim.SGD, torch.optim.AdamW

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda groups: _SGD(groups, lr=0.1),
    "SGD, momentum, decay": lambda groups: _SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda groups: _ADAMW(groups, lr=1e-2, weight_decay=0.1),
}

PRECISIONS = ("fp32", "bf16", "fp16")

_FP16 = {
    "static": {"enabled": True, "loss_scale": 256.0},
    "dynamic": {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": 12,
        "loss_scale_window": 1,
        "hysteresis": 1,
    },
}


@dataclass(frozen=True)
class Cell:
    """One training; ``config`` is merged into DeepSpeed's, ``scale`` is that of fp16.

    With ``resume`` it is saved after the evaluation's step and goes on in a new engine. ``note``
    says in a name what ``config`` and ``accumulate`` change.
    """

    optimizer: str
    precision: str
    zero: int
    replicas: int
    kind: str
    stages: int = 2
    scale: str = "dynamic"
    accumulate: int = 2
    resume: bool = False
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    note: str = ""

    @property
    def tensor(self) -> int:
        """How many tensor-parallel ranks share out a stage's weights."""
        return SHARDS if self.kind == SHARDED else 1

    @property
    def world(self) -> int:
        return self.stages * self.replicas * self.tensor

    @property
    def row(self) -> str:
        return f"{self.optimizer} | {self.precision} | {self.zero} | {self.replicas}"

    @property
    def name(self) -> str:
        """All that tells this cell from others."""
        scale = f", {self.scale} scale" if self.precision == "fp16" else ""
        replicas = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        return (
            f"{self.optimizer}; {self.precision}{scale}; ZeRO-{self.zero}; {replicas}; "
            f"{self.kind}; {self.stages} stages"
            + ("; saved and resumed" if self.resume else "")
            + (f"; {self.note}" if self.note else "")
        )

    def engine_config(self) -> dict[str, Any]:
        """Return DeepSpeed's configuration, for the pipeline and for one process alike."""
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": 0.0,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self.precision == "bf16"},
            "fp16": _FP16[self.scale] if self.precision == "fp16" else {"enabled": False},
            "zero_optimization": {"stage": self.zero},
            **self.config,
        }

    def batches(
        self, step: int, replica: int, *, evaluate: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield a step's micro-batches for one replica; in fp16 one of them overflows."""
        overflow = self.precision == "fp16"
        return batches(
            self.kind, step, replica, self.accumulate, evaluate=evaluate, overflow=overflow
        )


def optimizer_of(cell: Cell, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the cell's optimizer; by decay in two groups, of which either may be empty."""
    groups: list[Any] = list(parameters)
    if cell.kind == "groups by decay":
        matrices = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
    return OPTIMIZERS[cell.optimizer](groups)


def allow_fp16() -> None:
    """Let DeepSpeed train in fp16 on the CPU, which computes it as any device does."""
    from deepspeed.accelerator import get_accelerator

    accelerator = type(get_accelerator())
    accelerator.is_fp16_supported = lambda self: True
    accelerator.supported_dtypes = lambda self: [torch.float, torch.half, torch.bfloat16]


def _cells() -> Iterator[Cell]:
    axes = itertools.product(OPTIMIZERS, PRECISIONS, (0, 1), (1, 2), KINDS)
    for number, axis in enumerate(axes):
        cell = Cell(*axis)
        yield cell
        if cell.precision == "fp16":
            yield replace(cell, scale="static")
        if (number + number // 60) % 3 == 0:
            yield replace(cell, stages=3)


CELLS = tuple(_cells())
"""Every place of the table: with two stages, a third of them with three as well, fp16 with a
dynamic and a static loss scale."""


def _further() -> Iterator[Cell]:
    clipped = {"config": {"gradient_clipping": 0.05}, "note": "clipped"}
    for resume in (False, True):
        for replicas in (1, 2):
            yield Cell("AdamW", "bf16", 1, replicas, "all used", resume=resume, **clipped)
    for precision, zero in itertools.product(("fp32", "bf16"), (0, 1)):
        yield Cell("AdamW", precision, zero, 1, SHARDED)
        yield Cell("AdamW", precision, zero, 1, SHARDED, **clipped)


FURTHER = tuple(_further())
"""Trainings beside the table."""
