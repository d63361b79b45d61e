"""A cell of the parity table in one process.

In fp32 that is torch alone. In bf16 and fp16, and with ZeRO-1, it is DeepSpeed's own optimizer over
the whole model in one stage, which gets the mean of the replicas' plain gradients; parameters
without any are put back after its step, with their moments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .parity_cells import Cell, allow_fp16, optimizer_of
from .parity_models import EVALUATE, STEPS, build, loss_fn
from .parity_pipeline import Result, masters_of, weights_of

__all__ = ["flat_cells", "plain_cells"]

Gradients = dict[nn.Parameter, Tensor | None]


def plain_cells(rank: Rank, cells: list[Cell]) -> dict[Cell, Result]:
    """Train each cell in fp32 with torch's optimizer and nothing else."""
    return {cell: _plain(cell) for cell in cells}


def flat_cells(rank: Rank, cells: list[Cell]) -> dict[Cell, Result]:
    """Train each cell with the optimizer that DeepSpeed makes of torch's."""
    import deepspeed

    allow_fp16()
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return {cell: _flat(cell) for cell in cells}


def _plain(cell: Cell) -> Result:
    model = build(cell.kind, cell.stages)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_of(cell, trained)
    names = {p: name for name, p in model.named_parameters()}
    missing = []

    def step(gradients: Gradients) -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        missing.append(frozenset(names[p] for p in names if p.grad is None))
        if limit := cell.config.get("gradient_clipping"):
            nn.utils.clip_grad_norm_(trained, limit)
        optimizer.step()

    result = _train(cell, model, step, lambda: 1.0, lambda loss: loss)
    result.missing = missing
    return result


def _flat(cell: Cell) -> Result:
    import deepspeed
    from deepspeed.pipe import PipelineModule
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    model = build(cell.kind, cell.stages)
    names = {p: name for name, p in model.named_parameters()}
    engine, *_ = deepspeed.initialize(
        model=PipelineModule(
            [model],
            topology=PipeDataParallelTopology(num_pp=1, num_dp=1),
            loss_fn=loss_fn,
            partition_method="uniform",
        ),
        model_parameters=[p for p in model.parameters() if p.requires_grad],
        optimizer=lambda parameters: optimizer_of(cell, list(parameters)),
        config=cell.engine_config(),
    )
    optimizer = engine.optimizer
    _begin_anew(optimizer)

    def step(gradients: Gradients) -> None:
        put_back = [_saved(optimizer, p) for p, g in gradients.items() if g is None]
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        if engine.using_bf16_optimizer:
            optimizer.update_hp_grads()
        engine._exec_reduce_grads()  # of one replica
        engine._take_model_step({})
        for restore in put_back:
            restore()

    def scale() -> float:
        return float(getattr(optimizer, "loss_scale", 1.0))

    result = _train(cell, model, step, scale, lambda loss: loss * scale())
    result.masters = masters_of(optimizer, names)
    return result


def _begin_anew(optimizer: Any) -> None:
    """Undo the step with zeros that DeepSpeed's fp16 optimizers without ZeRO take when made."""
    if hasattr(optimizer, "fp32_groups"):
        optimizer.optimizer.state.clear()
        for own, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(own, masters, strict=True):
                master.data = parameter.detach().float()


def _train(
    cell: Cell,
    model: nn.ModuleList,
    step: Callable[[Gradients], None],
    scale: Callable[[], float],
    scaled: Callable[[Tensor], Tensor],
) -> Result:
    names = {p: name for name, p in model.named_parameters()}
    trained = [p for p in names if p.requires_grad]
    result = Result()
    for number in range(STEPS):
        if number == EVALUATE:
            model.eval()
            with torch.no_grad():
                result.evaluation = _mean(
                    [list(own) for own in _losses(cell, model, number, evaluate=True)]
                )
            model.train()
        losses, gradients = [], []
        for own in _losses(cell, model, number):
            taken = []
            sums = _Sums(cell, trained)
            for loss in own:
                scaled(loss / cell.accumulate).backward()
                taken.append(loss.detach())
                sums.take()
            losses.append(taken)
            gradients.append(sums.values)
        step({p: _average(cell, [of[p] for of in gradients]) for p in trained})
        for parameter in trained:
            parameter.grad = None
        result.losses.append(_mean(losses))
        result.weights.append(weights_of(names))
        result.scales.append(scale())
    return result


class _Sums:
    """One replica's gradients, summed over its micro-batches as the optimizer does it."""

    def __init__(self, cell: Cell, trained: list[nn.Parameter]) -> None:
        self.dtype = _ACCUMULATED.get(cell.config.get("data_types", {}).get("grad_accum_dtype"))
        self.values: Gradients = dict.fromkeys(trained)

    def take(self) -> None:
        for parameter, total in self.values.items():
            if parameter.grad is not None:
                gradient = parameter.grad.to(self.dtype or parameter.dtype)
                self.values[parameter] = gradient.clone() if total is None else total + gradient
                parameter.grad = None


_ACCUMULATED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _average(cell: Cell, gradients: list[Tensor | None]) -> Tensor | None:
    """Return the mean over replicas: None if no replica has one, else zero for those without."""
    some = next((g for g in gradients if g is not None), None)
    if some is None or len(gradients) == 1:
        return some
    filled = [torch.zeros_like(some) if g is None else g for g in gradients]
    if cell.zero == 1 and "data_types" not in cell.config:  # ZeRO divides before it adds
        return sum(g / len(filled) for g in filled)  # type: ignore[return-value]
    return sum(filled) / len(filled)  # type: ignore[return-value]


def _losses(
    cell: Cell, model: nn.ModuleList, step: int, *, evaluate: bool = False
) -> Iterator[Iterator[Tensor]]:
    """Yield each replica's losses."""
    for replica in range(cell.replicas):
        own = cell.batches(step, replica, evaluate=evaluate)
        yield (_loss(model, batch) for batch in own)


def _loss(model: nn.ModuleList, batch: dict[str, Any]) -> Tensor:
    values = dict(batch)
    for stage in model:
        names = inspect.signature(stage.forward).parameters
        output = stage(**{name: values[name] for name in names})
        if isinstance(output, dict):
            values.update(output)
    return loss_fn(output, batch["labels"])


def _mean(losses: list[list[Tensor]]) -> float:
    means = [sum(loss.detach() for loss in own) / len(own) for own in losses]
    return (sum(means) / len(means)).item()


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
