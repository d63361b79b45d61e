"""A training in one process, by torch alone.

The gradients of each replica are summed over its micro-batches, and averaged over the replicas. In
half precision the optimizer has one fp32 copy of each parameter, as DeepSpeed's optimizers do; one
without a gradient is left alone by torch's optimizer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .training import Trained, Training, weights_of

__all__ = ["Gradients", "Stepper", "in_one_process", "train_alone"]

Gradients = dict[nn.Parameter, Tensor | None]


class Stepper(Protocol):
    """Steps the model's parameters."""

    def scale(self) -> float:
        """Return the factor of a loss."""

    def step(self, gradients: Gradients, trained: Trained) -> None:
        """Take a step with the mean of the replicas' gradients."""

    def finish(self, trained: Trained) -> None:
        """Record the state after the last step."""


class Torch:
    """Torch's optimizer, on fp32 copies of parameters of half precision."""

    def __init__(self, training: Training, model: nn.Module) -> None:
        self.training = training
        model.to(training.dtype)
        self.names = {p: name for name, p in model.named_parameters()}
        self.trained = [p for p in self.names if p.requires_grad]
        self.masters: list[Any] = self.trained
        if training.precision != "fp32":
            self.masters = [p.detach().float().requires_grad_() for p in self.trained]
        self.optimizer = training.optimizer(self.masters)
        self.scheduler = training.scheduler(self.optimizer)

    def scale(self) -> float:
        return self.training.loss_scale if self.training.precision == "fp16" else 1.0

    def step(self, gradients: Gradients, trained: Trained) -> None:
        missing = (name for p, name in self.names.items() if gradients.get(p) is None)
        trained.missing.append(frozenset(missing))
        for master, parameter in zip(self.masters, self.trained, strict=True):
            gradient = gradients[parameter]
            if gradient is not None and master is not parameter:
                gradient = gradient.to(master.dtype) * (1 / self.scale())
            master.grad = gradient
        if self.training.clip:
            self._clip(trained)
        self.training.step(self.optimizer)
        with torch.no_grad():
            for parameter, master in zip(self.trained, self.masters, strict=True):
                parameter.copy_(master)
                master.grad = None
        if self.scheduler is not None:
            self.scheduler.step()

    def _clip(self, trained: Trained) -> None:
        trained.norms.append(float(nn.utils.clip_grad_norm_(self.masters, self.training.clip)))
        if self.training.precision == "bf16" and not self.training.zero:
            for master in self.masters:  # DeepSpeed clips gradients that are bf16
                if master.grad is not None:
                    master.grad.copy_(master.grad.bfloat16())

    def finish(self, trained: Trained) -> None:
        pass


def in_one_process(rank: Rank, trainings: Mapping[str, Training]) -> dict[str, Trained]:
    return {name: train_alone(training) for name, training in trainings.items()}


def train_alone(
    training: Training, stepper_of: Callable[[Training, nn.Module], Stepper] = Torch
) -> Trained:
    """Train without an engine, with the steps of ``stepper_of(training, model)``."""
    model = training.build()
    stepper = stepper_of(training, model)
    names = {p: name for name, p in model.named_parameters()}
    trained = [p for p in names if p.requires_grad]
    replicas = range(training.grid.replicas)
    result = Trained()
    for step in range(training.steps + 1):
        if step in training.evaluate:
            model.eval()
            with torch.no_grad():
                result.evaluations.append(
                    _mean([_losses(training, model, step, replica, True) for replica in replicas])
                )
            model.train()
        if step == training.steps:
            break
        losses, gradients = [], []
        for replica in replicas:
            own = _losses(training, model, step, replica, False)
            for loss in own:
                (loss / training.accumulate * stepper.scale()).backward()
            losses.append([loss.detach() for loss in own])
            gradients.append({p: p.grad for p in trained})
            for parameter in trained:
                parameter.grad = None
        stepper.step({p: _average(training, [of[p] for of in gradients]) for p in trained}, result)
        for parameter in trained:
            parameter.grad = None
        result.losses.append(_mean(losses))
        result.weights.append(weights_of(names))
        result.scales.append(stepper.scale())
    stepper.finish(result)
    return result


def _losses(
    training: Training, model: nn.Module, step: int, replica: int, evaluate: bool
) -> list[Tensor]:
    batches = training.batches(step, replica, evaluate=evaluate)
    return [training.loss(model, batch) for batch in batches]


def _mean(losses: list[list[Tensor]]) -> float:
    means = [sum(loss for loss in own) / len(own) for own in losses]
    return (sum(means) / len(means)).item()


def _average(training: Training, gradients: list[Tensor | None]) -> Tensor | None:
    """Return the mean over replicas: None if no replica has one, else zero for those without."""
    some = next((g for g in gradients if g is not None), None)
    if some is None or len(gradients) == 1:
        return some
    filled = [torch.zeros_like(some) if g is None else g for g in gradients]
    if training.zero:  # ZeRO divides before it adds
        return sum(g / len(filled) for g in filled)  # type: ignore[return-value]
    return sum(filled) / len(filled)  # type: ignore[return-value]
