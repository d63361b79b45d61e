"""The rules that plain tuples break, beside the table of the same values on the stock engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import pipecodec
from tests.distributed.engines import Grid
from tests.distributed.rows import ROWS
from tests.distributed.stages import build
from tests.distributed.table import micro_batches

PAGE = Path(__file__).parents[1] / "docs" / "symptoms" / "index.md"
TABLE = dict(
    re.findall(
        r"^\| (.*?) \| (.*?) \|$",
        PAGE.read_text().partition("## The same values without it")[2].partition("Further")[0],
        re.M,
    )
)
"""The rows that were trained as plain tuples on the stock engine, and each one's fate."""

OTHERWISE = ("evaluation", "checkpoint", "frozen")
"""Rows that fail by evaluation, checkpointing or frozen stages, whatever their values."""


@pytest.mark.parametrize("name", [name for name in ROWS if name in TABLE])
def test_rules_are_broken_where_the_engine_failed(name: str) -> None:
    row = ROWS[name]
    part = pipecodec.partition_modules(build(row, 3))
    torch.manual_seed(0)
    report = pipecodec.doctor(part, **next(micro_batches(row, Grid(3), 0)))
    rules = [rule for boundary in report.boundaries for rule in boundary.tuple_rules]
    rules += [r for boundary in report.boundaries for c in boundary.crossings for r in c.rules]
    # Gloo, on which the table was made, sends bool tensors.
    rules = [rule for rule in rules if not rule.startswith("bool")]
    if TABLE[name] == "right":
        assert rules == []
    elif not any(word in name for word in OTHERWISE):
        assert rules != []
    assert len(TABLE) > 30


def test_errors_are_those_of_the_engine() -> None:
    """Each rule that names an error names that of the row which breaks no other rule."""
    named = {
        "float mask without gradient": "RuntimeError",
        "unused float with gradient": "AssertionError",
        "None": "AssertionError",
        "130 tensors": "AssertionError",
        "complex64": "wrong",
        "0-dim, empty, transposed, expanded": "RuntimeError",
        "bf16 becomes fp32 in the middle": "the process dies",
    }
    for name, error in named.items():
        row = ROWS[name]
        part = pipecodec.partition_modules(build(row, 3))
        report = pipecodec.doctor(part, **next(micro_batches(row, Grid(3), 0)))
        rules = [rule for boundary in report.boundaries for rule in boundary.tuple_rules]
        rules += [r for boundary in report.boundaries for c in boundary.crossings for r in c.rules]
        assert error in TABLE[name]
        assert all(error in rule for rule in rules), (name, rules)
