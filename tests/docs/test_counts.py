"""Figures and quotations of pages are those of the tests and sources that they name."""

from __future__ import annotations

import inspect

import torch
from deepspeed.runtime.pipe import engine

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


def test_dtypes_page_quotes_the_engine() -> None:
    page = (DOCS / "symptoms" / "dtype-keyerror.md").read_text()
    said = "NCCL does not like to send torch.BoolTensor types"
    assert said in page and said in inspect.getsource(engine)
    unknown = {torch.float8_e4m3fn, torch.uint16, torch.uint32, torch.uint64}
    assert not unknown & set(engine.PipelineEngine.ID_TO_DTYPE)
    assert torch.bool in engine.PipelineEngine.ID_TO_DTYPE
