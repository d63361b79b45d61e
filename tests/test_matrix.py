"""The versions that make matrix tries, and the page that it writes."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from .matrix import environment, table
from .matrix.cells import OTHERS, PINNED, ROOT, Cell, cells
from .matrix.table import Outcome


def minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def test_both_ends_of_the_declared_ranges_are_tried() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for name in ("torch", "transformers", "deepspeed"):
        lowest, above = re.findall(rf'"{name}>=([\d.]+),<([\d.]+)"', declared)[0]
        tried = {minor(getattr(cell, name)) for cell in cells()}
        assert min(tried) == minor(f"{lowest}.0")
        assert max(tried) < minor(f"{above}.0")
        if name == "torch":
            assert max(tried) == (2, minor(above)[1] - 1)
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', declared)
    assert {*classified} <= {cell.python for cell in cells()}


def test_each_cell_differs_in_one_version() -> None:
    found = cells()
    assert len(found) == len(set(found)) > sum(map(len, OTHERS.values())) - 1
    for cell in found:
        assert sum(asdict(cell)[name] != asdict(PINNED)[name] for name in OTHERS) <= 1


def test_page_has_a_row_for_each_cell(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}old\n{table.END}after\n")
    monkeypatch.setattr(table, "PAGE", page)
    table.write({PINNED: Outcome("5 passed", 3, "2026-01-02", "1a2b3c4")})
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}| Python")
    assert text.endswith(f"{table.END}after\n")
    rows = text.splitlines()
    assert sum(row.endswith("| not run |  |  |") for row in rows) == len(cells()) - 1
    assert rows[4] == f"| {' | '.join(f'**{it}**' for it in asdict(PINNED).values())} " + (
        "| 5 passed | 2026-01-02 | 1a2b3c4 |"
    )


def test_outcomes_are_kept(tmp_path) -> None:
    cell = Cell("3.10", "2.8.0", "0.19.8", "5.5.0")
    outcomes = {cell: Outcome("1 failed", 60, "2026-01-02", "1a2b3c4-dirty")}
    table.save(tmp_path / "file", outcomes)
    assert table.load(tmp_path / "file") == outcomes
    assert table.load(tmp_path / "none") == {}


def test_page_of_this_repository_has_these_cells() -> None:
    text = table.PAGE.read_text().split(table.BEGIN)[1].split(table.END)[0]
    rows = [
        tuple(part.strip(" *") for part in row.split("|")[1:5]) for row in text.splitlines()[2:]
    ]
    assert rows == [tuple(asdict(cell).values()) for cell in cells()]


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: Could not find a version that satisfies the requirement torch==9.0.0 (from "
        "versions: 2.14.0, 2.14.1)\nERROR: No matching distribution found for torch==9.0.0\n",
        "ERROR: Cannot install torch==9.0.0 because these package versions have conflicting "
        "dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io\n",
    ],
)
def test_pips_words_for_a_version_that_it_does_not_install(said: str) -> None:
    found = environment.MISSING.search(f"WARNING: a new release is available\n{said}")
    assert found is not None and found[1] == "torch==9.0.0"


@pytest.mark.slow
def test_a_python_that_is_not_here_is_named() -> None:
    with pytest.raises(
        environment.CannotRunError, match=r"not run: no python2\.5 with its headers"
    ):
        environment.interpreter("2.5")
