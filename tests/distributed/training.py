"""A training that is done twice, here on DeepSpeed's engine; ``reference`` does it in one process.

Each family of cases has a subclass of :class:`Training`, which holds its data and a few functions.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import Grid, loss_fn, sgd

__all__ = [
    "DTYPES",
    "Trained",
    "Training",
    "Weights",
    "masters_of",
    "names_here",
    "on_engine",
    "train",
    "weights_of",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Weights = dict[str, "np.ndarray[Any, Any]"]


@dataclass
class Trained:
    """The results of a training, to the bit; a rank has only its own.

    ``weights`` are those after each step, as float32, ``masters`` the optimizer's fp32 ones after
    the last. ``missing`` holds, where the optimizer is torch's own, the parameters without a
    gradient at each of its steps; ``scales`` the loss scale after each step; ``norms`` each step's
    norm of gradients, where it is noted.
    """

    losses: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    masters: Weights = field(default_factory=dict)
    missing: list[frozenset[str]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


class Training(ABC):
    """Stages, batches and an optimizer; a chain of stages and SGD unless a subclass differs."""

    grid: Grid
    steps: int = 3
    evaluate: frozenset[int] = frozenset()
    """Steps before which ``eval_batch`` runs once; ``steps`` itself means after the last one."""
    resume: frozenset[int] = frozenset()
    """Steps after which the training is saved, and goes on in a new engine."""
    precision: str = "fp32"
    zero: int = 0
    clip: float = 0.0
    unused_have_none: bool = True
    """Whether the engine leaves parameters that no micro-batch used without a gradient."""
    loss_scale: float = 1.0
    """The factor of fp16's losses, in every step alike."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the model with the same weights in every process."""

    @abstractmethod
    def batches(self, step: int, replica: int, *, evaluate: bool = False) -> Iterator[Any]:
        """Yield the micro-batches of a step for one replica, as dicts with "labels"."""

    @abstractmethod
    def engine(self, model: nn.Module) -> tuple[Any, dict[nn.Parameter, str]]:
        """Return this rank's engine, and the model's names of its parameters."""

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return sgd(parameters)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return None

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take a step of ``optimizer`` in one process."""
        optimizer.step()

    def loss(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Call the stages one after the other, with the arguments they name, without an engine."""
        values = dict(batch)
        for stage in model:
            names = inspect.signature(stage.forward).parameters
            output = stage(**{name: values[name] for name in names})
            if isinstance(output, dict):
                values.update(output)
        return self.loss_fn(output, batch["labels"])

    def loss_fn(self, output: Any, labels: Any) -> Tensor:
        return loss_fn(output, labels)

    def train_batch(self, engine: Any, batches: Iterator[Any], trained: Trained) -> None:
        trained.losses.append(engine.train_batch(batches).item())

    @property
    def accumulate(self) -> int:
        return self.grid.accumulate

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


def names_here(engine: Any, model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the names that ``model`` has for the parameters of this rank."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {p: names[p] for p in engine.module.parameters() if p in names}


def weights_of(names: Mapping[nn.Parameter, str]) -> Weights:
    return {name: p.detach().float().numpy().copy() for p, name in names.items()}


def on_engine(rank: Rank, trainings: Mapping[str, Training]) -> dict[str, Trained]:
    """Do every training on this rank; says each one's name before it begins."""
    results = {}
    for name, training in trainings.items():
        rank.say(name)
        results[name] = train(training)
    return results


def train(training: Training, folder: str = "") -> Trained:
    """Train on this rank's engine; all ranks save in ``folder`` if it is resumed."""
    warnings.filterwarnings("error", message="c10d")  # of gradients through a message
    engine, names = training.engine(training.build())
    result = Trained()
    if training.unused_have_none and training.precision == "fp32" and training.zero == 0:

        def note_missing(*_: Any) -> None:
            result.missing.append(frozenset(n for p, n in names.items() if p.grad is None))

        engine.optimizer.register_step_pre_hook(note_missing)
    replica = engine.grid.get_data_parallel_rank()
    for step in range(training.steps + 1):
        if step in training.evaluate:
            batches = training.batches(step, replica, evaluate=True)
            result.evaluations.append(engine.eval_batch(batches).item())
        if step == training.steps:
            break
        training.train_batch(engine, training.batches(step, replica), result)
        result.weights.append(weights_of(names))
        result.scales.append(float(getattr(engine.optimizer, "loss_scale", 1.0)))
        if step in training.resume:
            engine.save_checkpoint(folder)
            engine, names = training.engine(training.build())
            engine.load_checkpoint(folder)
    result.masters = masters_of(engine.optimizer, names)
    return result


def masters_of(optimizer: Any, names: Mapping[nn.Parameter, str]) -> Weights:
    """Return the fp32 weights that DeepSpeed's optimizer keeps, put together from all replicas."""
    from deepspeed.utils import safe_get_full_fp32_param

    if hasattr(optimizer, "fp32_groups"):  # fp16 without ZeRO keeps one for each parameter
        pairs = [
            (p, master)
            for own, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
            for p, master in zip(own, masters, strict=True)
        ]
    else:
        pairs = [(p, safe_get_full_fp32_param(p)) for p in names if hasattr(p, "_hp_mapping")]
    return {
        names[p]: master.detach().reshape(-1).numpy().copy() for p, master in pairs if p in names
    }
