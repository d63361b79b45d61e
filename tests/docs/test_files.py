"""Files that the documentation names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import DOCS, ROOT

PAGES = [*sorted(DOCS.glob("**/*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
NAMED = re.compile(r"`((?:[\w.*]+/)*[\w*]+\.(?:py|cpp|cu|h))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = set(NAMED.findall(text)) - set(re.findall(r"Save as `([^`]+)`", text))
    places = [ROOT, *(ROOT / top for top in ("csrc", "pipecodec", "tests", "benchmarks"))]
    missing = [name for name in sorted(named) if not any(found(place, name) for place in places)]
    assert missing == []


def found(place: Path, name: str) -> bool:
    pattern = name if place == ROOT else f"**/{name}"
    return next(place.glob(pattern), None) is not None
