"""The rows of ``rows`` as trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .reference import in_one_process
from .rows import TABLES
from .stages import WIDTH, Row, build
from .training import Trained, Training, names_here, on_engine

__all__ = ["RowTraining", "engine_of", "micro_batches", "pipeline_rows", "whole_rows"]


@dataclass(frozen=True)
class RowTraining(Training):
    row: Row
    grid: Grid

    @property
    def evaluate(self) -> frozenset[int]:
        return self.row.evaluate

    @property
    def precision(self) -> str:
        return "bf16" if self.row.bf16 else "fp32"

    @property
    def zero(self) -> int:
        return self.row.config.get("zero_optimization", {}).get("stage", 0)

    def build(self) -> nn.ModuleList:
        return build(self.row, self.grid.stages)

    def batches(
        self, step: int, replica: int, *, evaluate: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        return micro_batches(self.row, self.grid, step, replica=replica, evaluate=evaluate)

    def engine(self, model: Any) -> tuple[Any, dict[nn.Parameter, str]]:
        engine = engine_of(self.row, model, self.grid)
        return engine, names_here(engine, model)


def micro_batches(
    row: Row, grid: Grid, step: int, *, replica: int = 0, evaluate: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Yield a step's batches for one replica; those for evaluation are others, and smaller."""
    for index in range(grid.accumulate):
        seed = 1000 * step + 100 * replica + index + 50 * evaluate
        random = torch.Generator().manual_seed(seed)
        size = row.sizes[(grid.accumulate * step + index) % len(row.sizes)]
        size -= evaluate
        yield {
            "x": torch.randn(size, WIDTH, generator=random),
            "ids": torch.randint(0, 2, (size, WIDTH), generator=random),
            "labels": torch.randint(0, 3, (size,), generator=random),
        }


def engine_of(row: Row, model: nn.ModuleList, grid: Grid) -> Any:
    """Return this rank's engine for the stages of ``model``."""
    return engine_for(list(model), grid, inputs=["x", "ids"], config=row.config, **row.options)


def trainings(table: str, grid: Grid) -> Mapping[str, RowTraining]:
    return {name: RowTraining(row, grid) for name, row in TABLES[table].items()}


def pipeline_rows(rank: Rank, table: str, grid: Grid) -> dict[str, Trained]:
    """Train every row of a table on this rank; a row itself cannot be sent to a process."""
    return on_engine(rank, trainings(table, grid))


def whole_rows(rank: Rank, table: str, grid: Grid) -> dict[str, Trained]:
    return in_one_process(rank, trainings(table, grid))
