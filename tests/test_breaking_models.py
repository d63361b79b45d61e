"""Models made to break `partition`: right to the last bit, or refused with a clear text."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import pipecodec

from .breaking_models import (
    containers,
    data,
    held,
    inputs,
    memory,
    modes,
    modules,
    sharing,
    sizes,
)
from .breaking_models.case import CASES, RIGHT, WIDTH, Base
from .breaking_models.check import outcomes, quiet

FILES = (containers, data, held, inputs, memory, modes, modules, sharing, sizes)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with quiet():
        yield
    logging.disable(disabled)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_model_made_to_break(name: str) -> None:
    case = CASES[name]
    for kind, outcome in outcomes(case).items():
        pattern = case.later.get(kind, case.later.get(kind.removesuffix(" eval")))
        if kind == "partition":
            pattern = case.refused
        if pattern is None:
            assert outcome == RIGHT, f"{kind}: {outcome}"
        else:
            assert re.match(f"refused: .*({pattern})", outcome, re.DOTALL), f"{kind}: {outcome}"


def test_threads_leave_torch_as_it_was() -> None:
    apply, call = vars(torch.autograd.Function)["apply"], nn.Linear.__call__
    start, faults = threading.Barrier(4), list[BaseException]()

    def cut() -> None:
        start.wait(20)
        try:
            for _ in range(3):
                pipecodec.partition(Base(), (torch.ones(2, WIDTH),), n_stages=3, verify=False)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=cut) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert vars(torch.autograd.Function)["apply"] is apply
    assert nn.Linear.__call__ is call
    assert not faults


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"balance": 3}, "one positive weight for each"),
        ({"balance": ["a", "b", "c"]}, "one positive weight for each"),
        ({"balance": [float("nan"), 1, 1]}, "one positive weight for each"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], text: str) -> None:
    arguments: dict[str, Any] = {"n_stages": 3, **wrong}
    with pytest.raises(ValueError, match=text):
        pipecodec.partition(Base(), (torch.ones(2, WIDTH),), **arguments)
