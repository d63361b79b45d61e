"""A cell of the parity table in one process, with the optimizer that DeepSpeed makes of torch's.

It steps the whole model in one stage, with the mean of the replicas' plain gradients; parameters
without any are put back after its step, with their moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import allow_fp16, join
from .parity_cells import Cell
from .parity_models import loss_fn
from .reference import Gradients, train_alone
from .training import Trained, masters_of

__all__ = ["flat_cells", "plain_cells"]


def plain_cells(rank: Rank, cells: list[Cell]) -> dict[Cell, Trained]:
    """Train each cell in fp32 with torch's optimizer and nothing else."""
    return {cell: train_alone(cell) for cell in cells}


def flat_cells(rank: Rank, cells: list[Cell]) -> dict[Cell, Trained]:
    """Train each cell with the optimizer that DeepSpeed makes of torch's."""
    allow_fp16()
    join()
    return {cell: train_alone(cell, Flat) for cell in cells}


class Flat:
    """The optimizer of DeepSpeed's engine over the whole model in one stage."""

    def __init__(self, cell: Cell, model: nn.Module) -> None:
        import deepspeed
        from deepspeed.pipe import PipelineModule
        from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

        self.names = {p: name for name, p in model.named_parameters()}
        self.engine, *_ = deepspeed.initialize(
            model=PipelineModule(
                [model],
                topology=PipeDataParallelTopology(num_pp=1, num_dp=1),
                loss_fn=loss_fn,
                partition_method="uniform",
            ),
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=cell.optimizer,
            config=cell.engine_config(),
        )
        self.optimizer: Any = self.engine.optimizer
        _begin_anew(self.optimizer)

    def scale(self) -> float:
        return float(getattr(self.optimizer, "loss_scale", 1.0))

    def step(self, gradients: Gradients, trained: Trained) -> None:
        put_back = [_saved(self.optimizer, p) for p, g in gradients.items() if g is None]
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        if self.engine.using_bf16_optimizer:
            self.optimizer.update_hp_grads()
        self.engine._exec_reduce_grads()  # of one replica
        self.engine._take_model_step({})
        for restore in put_back:
            restore()

    def finish(self, trained: Trained) -> None:
        trained.masters = masters_of(self.optimizer, self.names)


def _begin_anew(optimizer: Any) -> None:
    """Undo the step with zeros that DeepSpeed's fp16 optimizers without ZeRO take when made."""
    if hasattr(optimizer, "fp32_groups"):
        optimizer.optimizer.state.clear()
        for own, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(own, masters, strict=True):
                master.data = parameter.detach().float()


def _saved(optimizer: Any, parameter: nn.Parameter) -> Callable[[], None]:
    """Note a parameter's weights and moments; the function returned puts them back."""
    master, start = _master(optimizer, parameter)
    state, end = optimizer.state.get(master, {}), start + parameter.numel()
    alone = parameter.numel() == master.numel()
    kept = {key: part.clone() for key, part in _parts(state, master, start, end, alone)}
    weight, full = parameter.detach().clone(), master.detach().reshape(-1)[start:end].clone()

    def restore() -> None:
        with torch.no_grad():
            parameter.copy_(weight)
            master.reshape(-1)[start:end] = full
            for key, part in _parts(optimizer.state.get(master, {}), master, start, end, alone):
                part.copy_(kept[key]) if key in kept else part.zero_()

    return restore


def _parts(
    state: dict[str, Any], master: Tensor, start: int, end: int, alone: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield the moments of a part of ``master``; with its count of steps if it is alone there."""
    for key, value in state.items():
        if torch.is_tensor(value) and (alone or value.numel() == master.numel()):
            yield key, value.reshape(-1)[start:end] if value.numel() > 1 else value


def _master(optimizer: Any, parameter: nn.Parameter) -> tuple[Tensor, int]:
    """Return the optimizer's fp32 tensor that holds a parameter, and where it begins there."""
    if hasattr(optimizer, "fp32_groups"):
        for own, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for p, master in zip(own, masters, strict=True):
                if p is parameter:
                    return master, 0
    elif hasattr(optimizer, "bf16_groups"):
        groups = zip(optimizer.bf16_groups, optimizer.fp32_groups_flat_partition, strict=True)
    else:
        groups = zip(
            optimizer.round_robin_bit16_groups,
            optimizer.single_partition_of_fp32_groups,
            strict=True,
        )
    for own, master in groups:
        start = 0
        for p in own:
            if p is parameter:
                return master, start
            start += p.numel()
    raise AssertionError("no fp32 weights for a parameter")
