"""The page of public names has all of them, and no other."""

from __future__ import annotations

import importlib.util
import re

import pytest

import pipecodec

from .pages import ROOT

PAGE = (ROOT / "docs" / "names.md").read_text()
PACKAGES = ["pipecodec", "pipecodec.deepspeed", "pipecodec.pipelining", "pipecodec.report"]
MODULES = {"deepspeed", "pipelining", "__version__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_the_page(package: str) -> None:
    names = set(importlib.import_module(package).__all__) - MODULES
    assert len(names) > 4
    assert [name for name in sorted(names) if not re.search(rf"[`.]{name}`", PAGE)] == []


def test_every_name_on_the_page_is_there() -> None:
    named = re.findall(r"`pipecodec\.(\w+)`", PAGE)
    assert "partition" in named
    missing = [name for name in named if not hasattr(pipecodec, name)]
    assert [name for name in missing if not importlib.util.find_spec(f"pipecodec.{name}")] == []
