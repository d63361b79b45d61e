"""A tenth of the parity table: training on the engine equals training in one process.

``python -m tests.distributed.parity`` trains all of it and prints the table of docs/parity.md.
"""

from __future__ import annotations

import pytest

from .parity import Verdict, verdicts
from .parity_cells import CELLS, FURTHER, OPTIMIZERS, PRECISIONS, Cell
from .parity_models import KINDS

TENTH = CELLS[5::13]
BESIDE = tuple(cell for cell in FURTHER if cell.resumed or cell.grid.tensor > 1)[1::4]


@pytest.fixture(scope="module")
def found() -> dict[Cell, Verdict]:
    return verdicts(TENTH + BESIDE)


@pytest.mark.parametrize("cell", TENTH + BESIDE, ids=lambda cell: cell.name)
def test_trains_as_in_one_process(cell: Cell, found: dict[Cell, Verdict]) -> None:
    assert found[cell].status not in ("WRONG", "refused"), found[cell].text


def test_every_value_of_every_axis_is_in_the_tenth() -> None:
    assert {cell.optimizer_name for cell in TENTH} == set(OPTIMIZERS)
    assert {cell.precision for cell in TENTH} == set(PRECISIONS)
    assert {(cell.kind, cell.replicas) for cell in TENTH} == {(k, r) for k in KINDS for r in (1, 2)}
    assert {(cell.zero, cell.stages) for cell in TENTH} == {(z, s) for z in (0, 1) for s in (2, 3)}
