"""Ways in which one rank can leave the others waiting, and how soon all of them know why.

``python -m tests.distributed.waiting [name ...]`` prints the table of docs/boundary.md. In each
case one rank of three does something that the others do not, and lives on, unless the case is that
it ends, until all others know; so it is not its end that they notice.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from .harness import outcomes
from .stages import Row, build
from .table import Grid, micro_batches
from .training import loss_fn

__all__ = ["CASES", "ENDS", "SLOW", "run"]

ROW, GRID = Row(), Grid(3)
LIMIT = 20.0
"""Seconds for which the rank at fault lives on."""


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def engine_of(loss: Any = loss_fn, optimizer: Any = sgd, part: Any = None, **options: Any) -> Any:
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": GRID.accumulate,
        "gradient_clipping": 1.0,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        **options.pop("config", {}),
    }
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return pipecodec.deepspeed.initialize(
        part or pipecodec.partition_modules(list(build(ROW, 3)), ["x", "ids"]),
        topology=PipeDataParallelTopology(num_pp=3, num_dp=1),
        loss_fn=loss,
        optimizer=optimizer,
        config=config,
        **options,
    )[0]


def data(step: int = 0) -> Iterator[Any]:
    return micro_batches(ROW, GRID, step)


def trained(**options: Any) -> Any:
    """Return an engine that has trained one batch, so that everything is settled."""
    engine = engine_of(**options)
    engine.train_batch(data())
    return engine


def refuse(*_: Any, **__: Any) -> Any:
    raise ArithmeticError("planted")


class Hook:
    """Does ``act`` on the rank at fault, where it is called; a copy of it is in each rank."""

    def __init__(self, here: bool, fault: Callable[[], None], act: Callable[[], Any]) -> None:
        self.here, self.fault, self.act = here, fault, act

    def __call__(self, *_: Any, **__: Any) -> None:
        if self.here:
            self.here = False
            self.fault()
            self.act()


Case = Callable[[bool, Callable[[], None], Path], Any]
"""Takes whether this rank is the one at fault, a function to call right before, and a folder."""

CASES: dict[str, tuple[int, Case]] = {}
ENDS: set[str] = set()
SLOW: dict[str, tuple[int, Case]] = {}


def case(name: str, fault: int = 1, *, ends: bool = False) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[name] = (fault, function)
        if ends:
            ENDS.add(name)
        return function

    return add


# Set-up


@case("set-up: its optimizer factory raises")
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
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    if here:
        fault()
        os._exit(0)
    engine_of()


@case("set-up: it does not come (stall_timeout=3)", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    if here:
        fault()
    else:
        engine_of(stall_timeout=3)


# Another call


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


# An error


def _in_stage(here: bool, fault: Any, act: Callable[[], Any], when: str = "forward") -> None:
    engine = trained()
    (stage,) = engine.module.forward_funcs
    hook = Hook(here, fault, act)
    if when == "forward":
        stage.mod.register_forward_pre_hook(hook)
    else:
        next(stage.mod.parameters()).register_hook(hook)
    engine.train_batch(data(1))


@case("it raises in a forward", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    _in_stage(here, fault, refuse)


@case("it raises in a backward", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    _in_stage(here, fault, refuse, "backward")


@case("it is interrupted", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    _in_stage(here, fault, interrupt)


@case("its loss function raises", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine_of(loss=lambda *_: Hook(here, fault, refuse)()).train_batch(data())


@case("its data loader raises", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.train_batch(_data_with(Hook(here, fault, refuse)))


@case("its data loader ends early", 0)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
    engine.train_batch(iter(list(data(1))[: 1 if here else None]))


def _data_with(hook: Hook, after: int = 1) -> Iterator[Any]:
    for index, batch in enumerate(data(1)):
        if index == after:
            hook()
        yield batch


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


def _in_step(here: bool, fault: Any, act: Callable[[], Any], **config: Any) -> None:
    engine = trained(config=config)
    step, hook = engine.optimizer.step, Hook(here, fault, act)
    engine.optimizer.step = lambda *args, **kwargs: [hook(), step(*args, **kwargs)][1]
    engine.train_batch(data(1))


@case("it raises in a step that talks: ZeRO-1, clipping", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    _in_step(here, fault, refuse, zero_optimization={"stage": 1})


@case("it raises in a step that talks: bf16, clipping", 2)
def _(here: bool, fault: Any, folder: Path) -> None:
    _in_step(here, fault, refuse, bf16={"enabled": True})


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


# An end


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


for _number in range(3):

    @case(f"rank {_number} is killed in a forward", _number, ends=True)
    def _(here: bool, fault: Any, folder: Path) -> None:
        _in_stage(here, fault, _die)


@case("it is killed, and a worker that it forked lives on", 1, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    def fork_and_die() -> None:
        if os.fork() == 0:  # with copies of all connections, which therefore stay open
            time.sleep(5.0)
            os._exit(0)
        _die()

    _in_stage(here, fault, fork_and_die)


@case("it is killed in a step that talks", 1, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    _in_step(here, fault, _die, zero_optimization={"stage": 1})


@case("its data loader calls sys.exit", 0, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.train_batch(_data_with(Hook(here, fault, sys.exit)))


@case("it ends with exit code 0 after fewer batches", 2, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        raise SystemExit(0)
    engine.train_batch(data(1))


@case("rank 0 ends with exit code 0 after fewer batches", 0, ends=True)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        fault()
        raise SystemExit(0)
    engine.train_batch(data(1))


@case("it does nothing more after fewer batches (stall_timeout=3)", 1)
def _(here: bool, fault: Any, folder: Path) -> None:
    engine = trained(stall_timeout=3)
    if here:
        fault()
    else:
        engine.train_batch(data(1))


# Merely slow


def _slowly(here: bool) -> Any:
    return lambda: time.sleep(4.0) if here else None


def slow_loader(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    engine.train_batch(_data_with(Hook(here, fault, _slowly(here))))
    engine.eval_batch(_data_with(Hook(here, fault, _slowly(here)), after=0))


def slow_elsewhere(here: bool, fault: Any, folder: Path) -> None:
    _in_step(here, fault, _slowly(here), zero_optimization={"stage": 1})


def slow_saving(here: bool, fault: Any, folder: Path) -> None:
    engine = trained()
    if here:
        time.sleep(4.0)  # between two calls
    save = engine.checkpoint_engine.save
    hook = Hook(here, fault, _slowly(here))
    engine.checkpoint_engine.save = lambda *args, **kwargs: [hook(), save(*args, **kwargs)][1]
    engine.save_checkpoint(str(folder))
    engine.train_batch(data(1))


def slow_after_an_error(here: bool, fault: Any, folder: Path) -> None:
    """Every rank gets an error by itself; then one takes its time."""
    engine = trained()
    try:
        engine.train_batch(data(1), 3)
    except TypeError:
        if here:
            time.sleep(4.0)
    engine.train_batch(data(1))


SLOW = {
    "its data loader": (0, slow_loader),
    "its optimizer": (1, slow_elsewhere),
    "between calls, and its saving": (2, slow_saving),
    "before it calls again after an error of all": (1, slow_after_an_error),
}


def _rank(rank: Rank, name: str, folder: str) -> str:
    at_fault, function = (CASES | SLOW)[name]
    here = rank.rank == at_fault
    try:
        function(here, lambda: rank.say(("fault", "")), Path(folder, "checkpoint"))
    except BaseException as error:
        if here and name in ENDS:
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        rank.say(("knows", f"{type(error).__name__}: {lines[0] if lines else ''}"))
    Path(folder, f"{rank.rank} knows").touch()
    deadline = time.monotonic() + LIMIT
    while len(list(Path(folder).glob("* knows"))) < rank.world - (name in ENDS):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return name


def run(name: str) -> tuple[float | None, list[str], list[Any]]:
    """Return the seconds until all others knew, each rank's first line, and how ranks ended.

    None for the seconds if some rank was not told.
    """
    began, told, lines = time.monotonic(), {}, [""] * 3
    at_fault = (CASES | SLOW)[name][0]

    def hear(rank: int, message: tuple[str, str]) -> None:
        nonlocal began
        kind, text = message
        if kind == "fault":
            began = time.monotonic()
        else:
            told[rank], lines[rank] = time.monotonic(), text

    with tempfile.TemporaryDirectory() as folder:
        ended = outcomes(_rank, 3, name, folder, on_message=hear, timeout=40.0)
    waiting = set(range(3)) - {at_fault}
    seconds = max(told[rank] for rank in waiting) - began if waiting <= told.keys() else None
    return seconds, lines, ended


def main(names: list[str]) -> None:
    print("| what one rank does | seconds | the others read |\n|---|---|---|")
    for name in names or [*CASES, *SLOW]:
        seconds, lines, ended = run(name)
        other = lines[((CASES | SLOW)[name][0] + 1) % 3]
        bad = [f" {o.rank}:{o.status}" for o in ended if o.status != "ok" and name not in ENDS]
        told = "not told" if seconds is None else f"{seconds:.1f}"
        print(f"| {name} | {told} | `{other[:200]}`{''.join(bad)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
