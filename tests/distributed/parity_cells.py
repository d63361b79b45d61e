"""The cells of the parity table: an optimizer, a precision, a ZeRO stage, replicas, a kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .engines import Grid, allow_fp16, engine_for, join
from .parity_models import EVALUATE, INPUTS, KINDS, SHARDED, STEPS, batches, build, loss_fn
from .sharded import SHARDS, keep_one_shard
from .training import Training, names_here

__all__ = [
    "CELLS",
    "FURTHER",
    "KINDS",
    "OPTIMIZERS",
    "PRECISIONS",
    "Cell",
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
class Cell(Training):
    """One training; ``config`` is merged into DeepSpeed's, ``fp16`` is its scale.

    If it is ``resumed``, it is saved after the evaluation's step and goes on in a new engine.
    ``note`` names the changes of ``config`` and ``accumulate``.
    """

    optimizer_name: str
    precision: str
    zero: int
    replicas: int = 1
    kind: str = KINDS[0]
    stages: int = 2
    fp16: str = "dynamic"
    accumulate: int = 2
    resumed: bool = False
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    note: str = ""

    steps, evaluate = STEPS, frozenset({EVALUATE})

    @property
    def resume(self) -> frozenset[int]:
        return self.evaluate if self.resumed else frozenset()

    @property
    def clip(self) -> float:
        limit: float = self.config.get("gradient_clipping", 0.0)
        return limit

    @property
    def grid(self) -> Grid:
        return Grid(self.stages, self.replicas, tensor=SHARDS if self.kind == SHARDED else 1)

    @property
    def row(self) -> str:
        return f"{self.optimizer_name} | {self.precision} | {self.zero} | {self.replicas}"

    @property
    def name(self) -> str:
        """All that tells this cell from others."""
        scale = f", {self.fp16} scale" if self.precision == "fp16" else ""
        replicas = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        return (
            f"{self.optimizer_name}; {self.precision}{scale}; ZeRO-{self.zero}; {replicas}; "
            f"{self.kind}; {self.stages} stages"
            + ("; saved and resumed" if self.resumed else "")
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
            "fp16": _FP16[self.fp16] if self.precision == "fp16" else {"enabled": False},
            "zero_optimization": {"stage": self.zero},
            **self.config,
        }

    def build(self) -> nn.ModuleList:
        return build(self.kind, self.stages)

    def batches(
        self, step: int, replica: int, *, evaluate: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield a step's micro-batches for one replica; in fp16 one of them overflows."""
        overflow = self.precision == "fp16"
        return batches(
            self.kind, step, replica, self.accumulate, evaluate=evaluate, overflow=overflow
        )

    def loss_fn(self, output: Tensor, labels: Tensor) -> Tensor:
        return loss_fn(output, labels)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """Return the cell's optimizer; by decay in two groups, of which either may be empty."""
        every = list(parameters)
        groups: list[Any] = every
        if self.kind == "groups by decay":
            matrices = [p for p in every if p.ndim > 1]
            others = [p for p in every if p.ndim <= 1]
            groups = [
                {"params": matrices, "weight_decay": 0.1},
                {"params": others, "weight_decay": 0},
            ]
        return OPTIMIZERS[self.optimizer_name](groups)

    def engine(self, model: Any) -> tuple[Any, dict[nn.Parameter, str]]:
        allow_fp16()
        join()
        grid, own = self.grid, dist.get_rank()
        if grid.tensor > 1:
            for ranks in grid.topology().get_axis_comm_lists("model"):
                group = dist.new_group(ranks)
                if own in ranks:
                    keep_one_shard(model, ranks.index(own), group)
        engine = engine_for(
            list(model),
            grid,
            inputs=INPUTS,
            loss_fn=loss_fn,
            optimizer=self.optimizer,
            config=self.engine_config(),
        )
        return engine, names_here(engine, model)


def _cells() -> Iterator[Cell]:
    axes = itertools.product(OPTIMIZERS, PRECISIONS, (0, 1), (1, 2), KINDS)
    for number, axis in enumerate(axes):
        cell = Cell(*axis)
        yield cell
        if cell.precision == "fp16":
            yield replace(cell, fp16="static")
        if (number + number // 60) % 3 == 0:
            yield replace(cell, stages=3)


CELLS = tuple(_cells())
"""Every place of the table: with two stages, a third of them with three as well, fp16 with a
dynamic and a static loss scale."""


def _further() -> Iterator[Cell]:
    clipped = {"config": {"gradient_clipping": 0.05}, "note": "clipped"}
    for resumed in (False, True):
        for replicas in (1, 2):
            yield Cell("AdamW", "bf16", 1, replicas, "all used", resumed=resumed, **clipped)
    for precision, zero in itertools.product(("fp32", "bf16"), (0, 1)):
        yield Cell("AdamW", precision, zero, 1, SHARDED)
        yield Cell("AdamW", precision, zero, 1, SHARDED, **clipped)


FURTHER = tuple(_further())
"""Trainings beside the table."""
