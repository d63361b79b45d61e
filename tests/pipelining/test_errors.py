"""However one rank fails, or leaves the others waiting, all of them learn why, and soon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipecodec.demo.launch import Rank

from ..distributed.harness import outcomes, values
from .call_faults import CALLS
from .ends import ENDS, end
from .faults import at_fault, run_cases
from .step_faults import STEPS

CASES = {**STEPS, **CALLS}

ONLY_SEVERAL = ["a torch stage among them", "some of the stages"]
"""Cases of ranks with several stages."""

MANY = [name for name in CASES if name not in ONLY_SEVERAL]
FEW = [
    "forward, first step",
    "forward, evaluation",
    "gradient of a weight",
    "last backward of a later step",
    "loss function",
    "missing input that a later stage uses",
    "unsupported type",
    "sizes change",
    "step and eval",
    "number of micro-batches",
    "stage built on two ranks",
    "recovered: settings differ",
    "dynamic sizes",
]
LAYOUTS = [("1f1b", 3, MANY), ("zbv", 2, FEW + ONLY_SEVERAL), ("interleaved", 3, FEW)]


def run(rank: Rank, layout: str, names: list[str], folder: str) -> dict[str, str]:
    return run_cases(rank, {name: CASES[name] for name in names}, layout, folder)


@pytest.mark.parametrize(("layout", "world", "names"), LAYOUTS)
def test_all_ranks_learn_why(layout: str, world: int, names: list[str], tmp_path: Path) -> None:
    ranks = values(run, world, layout, names, str(tmp_path), timeout=120.0)
    for name in names:
        case = CASES[name]
        for rank, lines in enumerate(ranks):
            expected = case.own if rank == at_fault(case, layout, world) else case.others
            assert re.search(expected, lines[name]), (name, rank, lines[name])


@pytest.mark.parametrize(("name", "fault"), [(name, n % 2) for n, name in enumerate(ENDS, 1)])
def test_all_ranks_learn_of_a_process_that_ends(name: str, fault: int, tmp_path: Path) -> None:
    for outcome in outcomes(end, 2, name, "zbv", fault, str(tmp_path)):
        if outcome.rank != fault:
            assert outcome.status == "ok", outcome.detail
            assert re.search(ENDS[name][1].format(fault), outcome.value)
