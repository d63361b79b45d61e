"""Models made to break `partition`: right to the last bit, or refused with a clear text."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from .breaking_models import containers, data, inputs, memory, modes, modules, sizes
from .breaking_models.case import CASES, RIGHT
from .breaking_models.check import outcomes, quiet

FILES = (containers, data, inputs, memory, modes, modules, sizes)


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
