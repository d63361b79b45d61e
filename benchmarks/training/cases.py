"""The trainings that are measured: a model and its size, a number of stages, an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipecodec.demo.data import MicroBatch, micro_batch, standard_library_text

__all__ = ["DEMO", "ENGINES", "MODELS", "TINY", "Case", "Size", "cases", "optimizer", "steps_of"]

MODELS = {"gpt2": "GPT-2", "llama": "Llama"}
ENGINES = {"deepspeed": "DeepSpeed", "torch": "torch"}
PREFIX = {"gpt2": "transformer.h", "llama": "model.layers"}
RATE = 3e-3


@dataclass(frozen=True)
class Size:
    """The size of a model and its batches, and how often they are measured.

    ``blocks`` is the number of blocks, or None for one in each stage. A round has ``steps`` steps
    of each contender, each of ``micro_batches`` of ``batch`` texts of ``length`` tokens.
    """

    name: str
    width: int
    blocks: int | None
    batch: int
    length: int
    rounds: int
    steps: int
    micro_batches: int = 4
    warm_up: int = 2


DEMO = Size("demo", width=128, blocks=6, batch=8, length=128, rounds=12, steps=1)
TINY = Size("tiny", width=32, blocks=None, batch=1, length=16, rounds=40, steps=3)


@dataclass(frozen=True)
class Case:
    """One training."""

    model: str
    size: Size
    stages: int
    engine: str

    @property
    def blocks(self) -> int:
        """The number of the model's blocks."""
        return self.size.blocks or self.stages

    @property
    def ends(self) -> list[int]:
        """The number of the first block of each stage, and of all blocks."""
        return [self.blocks * stage // self.stages for stage in range(self.stages + 1)]

    @property
    def split(self) -> list[str]:
        """The blocks with which the second and later stages begin."""
        return [f"{PREFIX[self.model]}.{block}" for block in self.ends[1:-1]]

    def build(self) -> Any:
        """Return the unsplit model, with the same weights in every process."""
        from pipecodec.demo.models import build_model

        return build_model(self.model, width=self.size.width, blocks=self.blocks)

    def __str__(self) -> str:
        return f"{MODELS[self.model]}, {self.size.name}, {self.stages} stages, {self.engine}"


def cases(
    models: tuple[str, ...], sizes: tuple[Size, ...], stages: int, engines: tuple[str, ...]
) -> list[Case]:
    """Return all combinations for one number of stages."""
    return [
        Case(model, size, stages, engine)
        for size in sizes
        for model in models
        for engine in engines
    ]


def steps_of(size: Size) -> list[list[MicroBatch]]:
    """Return the micro-batches of each step, those that warm up first."""
    text = standard_library_text()
    count = size.warm_up + size.rounds * size.steps
    draw = iter(range(count * size.micro_batches))
    return [
        [
            micro_batch(text, next(draw), batch=size.batch, length=size.length)
            for _ in range(size.micro_batches)
        ]
        for _ in range(count)
    ]


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Return the optimizer of all contenders."""
    return torch.optim.AdamW(parameters, lr=RATE)
