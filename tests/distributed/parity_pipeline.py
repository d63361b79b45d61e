"""A cell of the parity table on the engine."""

from __future__ import annotations

import faulthandler
import gc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn

import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from .parity_cells import Cell, allow_fp16, optimizer_of
from .parity_models import EVALUATE, INPUTS, STEPS, build, loss_fn
from .sharded import keep_one_shard

__all__ = ["Result", "masters_of", "pipeline_cells", "weights_of"]

CELL_TIMEOUT = 25.0
"""Seconds until a cell counts as hanging; it takes about one."""

Weights = dict[str, "np.ndarray[Any, Any]"]


@dataclass
class Result:
    """A training to the bit; of a rank only what it has.

    ``weights`` are those after each step, as float32, ``masters`` the optimizer's fp32 ones after
    the last; ``missing`` holds, where the optimizer is torch's own, the parameters without a
    gradient at each of its steps; ``scales`` the loss scale after each step.
    """

    losses: list[float] = field(default_factory=list)
    evaluation: float = 0.0
    weights: list[Weights] = field(default_factory=list)
    masters: Weights = field(default_factory=dict)
    missing: list[frozenset[str]] | None = None
    scales: list[float] = field(default_factory=list)


def weights_of(names: dict[nn.Parameter, str]) -> Weights:
    return {name: p.detach().float().numpy().copy() for p, name in names.items()}


def masters_of(optimizer: Any, names: dict[nn.Parameter, str]) -> Weights:
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


def pipeline_cells(rank: Rank, cells: list[tuple[int, Cell]], folder: str) -> None:
    """Train the cells one after the other; says when each begins, and what it gave.

    All ranks save in ``folder`` what is to be resumed.
    """
    import deepspeed

    allow_fp16()
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    for number, cell in cells:
        faulthandler.dump_traceback_later(CELL_TIMEOUT, exit=True, file=2)
        rank.say((number, "begun"))
        try:
            rank.say((number, _train(cell, f"{folder}/{number}")))
        except ValueError as refusal:
            rank.say((number, str(refusal)))
            raise
        gc.collect()  # parameters and their hooks hold each other


def _train(cell: Cell, folder: str) -> Result:
    engine, names = _engine_of(cell)
    result = Result()
    if cell.precision == "fp32" and cell.zero == 0:
        result.missing = missing = []
        engine.optimizer.register_step_pre_hook(
            lambda *_: missing.append(frozenset(n for p, n in names.items() if p.grad is None))
        )
    replica = engine.grid.get_data_parallel_rank()
    for step in range(STEPS):
        if step == EVALUATE:
            micro_batches = cell.batches(step, replica, evaluate=True)
            result.evaluation = engine.eval_batch(micro_batches).item()
        result.losses.append(engine.train_batch(cell.batches(step, replica)).item())
        result.weights.append(weights_of(names))
        result.scales.append(getattr(engine.optimizer, "loss_scale", 1.0))
        if step == EVALUATE and cell.resume:
            engine.save_checkpoint(folder)
            engine, names = _engine_of(cell)
            engine.load_checkpoint(folder)
    result.masters = masters_of(engine.optimizer, names)
    return result


def _engine_of(cell: Cell) -> tuple[Any, dict[nn.Parameter, str]]:
    """Return this rank's engine, and the model's names of its parameters."""
    from deepspeed.runtime.pipe.topology import (
        PipeDataParallelTopology,
        PipeModelDataParallelTopology,
    )

    model = build(cell.kind, cell.stages)
    topology = PipeDataParallelTopology(num_pp=cell.stages, num_dp=cell.replicas)
    if cell.tensor > 1:
        topology = PipeModelDataParallelTopology(
            num_pp=cell.stages, num_dp=cell.replicas, num_mp=cell.tensor
        )
        own = dist.get_rank()
        for ranks in topology.get_axis_comm_lists("model"):
            group = dist.new_group(ranks)
            if own in ranks:
                keep_one_shard(model, ranks.index(own), group)
    every = {parameter: name for name, parameter in model.named_parameters()}
    engine, *_ = pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(list(model), INPUTS),
        topology=topology,
        loss_fn=loss_fn,
        optimizer=lambda parameters: optimizer_of(cell, list(parameters)),
        config=cell.engine_config(),
    )
    return engine, {p: every[p] for p in engine.module.parameters() if p in every}
