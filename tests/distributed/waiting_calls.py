"""Set-ups that fail on one rank, and calls that the other ranks do not make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pipecodec.deepspeed

from .engines import join
from .stages import build
from .waiting_case import ROW, Cases, Hook, data, engine_of, refuse, sgd, trained

__all__ = ["CALLS"]

CALLS = case = Cases()


@case("set-up: its optimizer factory raises", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine_of(optimizer=lambda p: [Hook(here, fault, refuse)(), sgd(p)][1])


@case("set-up: its scheduler factory raises", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    def scheduler(optimizer: Any) -> Any:
        Hook(here, fault, refuse)()
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    engine_of(lr_scheduler=scheduler)


@case("set-up: its stage cannot be moved to the device", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    class Fragile(nn.Module):
        def _apply(self, *args: Any, **kwargs: Any) -> Any:
            Hook(here, fault, refuse)()
            return super()._apply(*args, **kwargs)

    stages = list(build(ROW, 3))
    for stage in stages:
        stage.fragile = Fragile()
    engine_of(part=pipecodec.partition_modules(stages, ["x", "ids"]))


@case("set-up: its configuration is another", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    if here:
        fault()
    engine_of(config={"gradient_accumulation_steps": 4} if here else {})


@case("set-up: it ends before", 1, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    join()
    if here:
        fault()
        os._exit(0)
    engine_of()


@case("set-up: it does not come (stall_timeout=3)", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    join()
    if here:
        fault()
    else:
        engine_of(stall_timeout=3)


@case("it evaluates while the others train", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
    (engine.eval_batch if here else engine.train_batch)(data(1))


@case("it trains while the others evaluate", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
    (engine.train_batch if here else engine.eval_batch)(data(1))


@case("it saves while the others train", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        engine.save_checkpoint(str(folder))
    engine.train_batch(data(1))


@case("it evaluates another number of micro-batches", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
    engine.eval_batch(data(1), num_micro_batches=2 if here else 3)


@case("it trains another number of micro-batches", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        engine.set_train_batch_size(2)
    engine.train_batch(data(1))


@case("it alone resets shapes", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        engine.reset_activation_shape()
    engine.train_batch(data(1))


@case("it alone asks for the model's state dict", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    model = build(ROW, 3)
    part = pipecodec.partition_modules(list(model), ["x", "ids"], model=model)
    engine = trained(part=part)
    if here:
        fault()
        pipecodec.deepspeed.model_state_dict(engine, part)
    engine.train_batch(data(1))
