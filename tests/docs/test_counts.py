"""Figures that pages give are those of the tests that they name."""

from __future__ import annotations

from tests.distributed.rows import ROWS, TABLES
from tests.pipelining import cases_modes, cases_split, test_tied
from tests.pipelining.value_stages import VALUES

from .pages import DOCS


def test_parity_page_counts_its_cases() -> None:
    page = (DOCS / "parity.md").read_text()
    for figure in (
        f"{len(ROWS)} kinds of values",
        f"{len(TABLES['static kinds'])} kinds that fit static shapes",
        f"{len(VALUES)} kinds of stages",
        f"{len(cases_modes.WAYS)} ways to train",
        f"{len(cases_split.KINDS)} chains",
        f"{len(test_tied.CASES)} places and ways",
    ):
        assert figure in page, figure
