"""Errors on one rank: in a stage, in the loss or the data, in a step, in a call."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from .waiting_case import (
    Cases,
    Hook,
    data,
    data_with,
    engine_of,
    in_stage,
    in_step,
    refuse,
    trained,
)

__all__ = ["ERRORS"]

ERRORS = case = Cases()


@case("it raises in a forward", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    in_stage(here, fault, refuse)


@case("it raises in a backward", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    in_stage(here, fault, refuse, "backward")


@case("it is interrupted", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    in_stage(here, fault, interrupt)


@case("its loss function raises", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine_of(loss_fn=lambda *_: Hook(here, fault, refuse)()).train_batch(data())


@case("its data loader raises", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.train_batch(data_with(Hook(here, fault, refuse)))


@case("its data loader ends early", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
    engine.train_batch(iter(list(data(1))[: 1 if here else None]))


@case("it raises in the reduction of gradients", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    from deepspeed.runtime.pipe import schedule

    engine = trained()
    reduce, hook = engine._INSTRUCTION_MAP[schedule.ReduceGrads], Hook(here, fault, refuse)
    engine._INSTRUCTION_MAP = {
        **engine._INSTRUCTION_MAP,
        schedule.ReduceGrads: lambda engine: [hook(), reduce(engine)],
    }
    engine.train_batch(data(1))


@case("it raises in a step that talks: ZeRO-1, clipping", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    in_step(here, fault, refuse, zero_optimization={"stage": 1})


@case("it raises in a step that talks: bf16, clipping", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    in_step(here, fault, refuse, bf16={"enabled": True})


@case("its learning rate schedule raises", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    hook = Hook(False, fault, refuse)

    class Schedule(torch.optim.lr_scheduler.ConstantLR):
        def step(self, *args: Any, **kwargs: Any) -> None:
            hook()
            super().step()

    engine = trained(lr_scheduler=Schedule)
    hook.here = here
    for step in 1, 2:
        engine.train_batch(data(step))


@case("it calls with a wrong argument and does nothing more", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        engine.train_batch(data(1), 3)
    engine.train_batch(data(1))


@case("it catches its error and calls again", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        try:
            engine.train_batch(data(1), 3)
        except TypeError:
            engine.train_batch(data(1))
    engine.eval_batch(data(1))


@case("it catches its error and makes the same call again", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        with contextlib.suppress(TypeError):
            engine.train_batch([])
    engine.train_batch(data(1))
    engine.train_batch(data(2))


@case("saving raises", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    save = engine.checkpoint_engine.save
    hook = Hook(here, fault, refuse)
    engine.checkpoint_engine.save = lambda *args, **kwargs: [hook(), save(*args, **kwargs)][1]
    engine.save_checkpoint(str(folder))


@case("loading raises", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.save_checkpoint(str(folder))
    load = engine.checkpoint_engine.load
    hook = Hook(here, fault, refuse)
    engine.checkpoint_engine.load = lambda *args, **kwargs: [hook(), load(*args, **kwargs)][1]
    engine.load_checkpoint(str(folder))
    engine.train_batch(data(1))
