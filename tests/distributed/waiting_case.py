"""One rank of three leaves the others waiting: how that is written down as a case.

A case is a function of whether this rank is the one at fault, of a function to call right before,
and of a folder that all ranks share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .engines import Grid, engine_for
from .stages import Row, build
from .table import micro_batches

__all__ = [
    "GRID",
    "ROW",
    "Case",
    "Cases",
    "Hook",
    "data",
    "data_with",
    "engine_of",
    "in_stage",
    "in_step",
    "refuse",
    "sgd",
    "trained",
]

ROW, GRID = Row(), Grid(3)

Doing = Callable[[bool, Callable[[], None], Path], Any]


@dataclass(frozen=True)
class Case:
    """``fault`` is the rank at fault, whose process ``ends`` by itself or lives on."""

    fault: int
    function: Doing
    ends: bool = False


class Cases(dict[str, Case]):
    """Cases by name; called, it adds the function that it decorates."""

    def __call__(self, name: str, fault: int, *, ends: bool = False) -> Callable[[Doing], Doing]:
        def add(function: Doing) -> Doing:
            self[name] = Case(fault, function, ends)
            return function

        return add


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def engine_of(part: Any = None, config: dict[str, Any] | None = None, **options: Any) -> Any:
    return engine_for(
        part or list(build(ROW, 3)),
        GRID,
        inputs=["x", "ids"],
        config={"gradient_clipping": 1.0, **(config or {})},
        **{"optimizer": sgd, **options},
    )


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


def in_step(here: bool, fault: Any, act: Callable[[], Any], **config: Any) -> None:
    engine = trained(config=config)
    step, hook = engine.optimizer.step, Hook(here, fault, act)
    engine.optimizer.step = lambda *args, **kwargs: [hook(), step(*args, **kwargs)][1]
    engine.train_batch(data(1))


def in_stage(here: bool, fault: Any, act: Callable[[], Any], when: str = "forward") -> None:
    engine = trained()
    (stage,) = engine.module.forward_funcs
    hook = Hook(here, fault, act)
    if when == "forward":
        stage.mod.register_forward_pre_hook(hook)
    else:
        next(stage.mod.parameters()).register_hook(hook)
    engine.train_batch(data(1))


def data_with(hook: Hook, after: int = 1) -> Iterator[Any]:
    for index, batch in enumerate(data(1)):
        if index == after:
            hook()
        yield batch
