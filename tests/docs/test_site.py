"""The site builds from the pages without a warning and without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pipecodec
from pipecodec import deepspeed, pipelining, report

from .pages import DOCS, ROOT

BUILD = ["-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-b", "html"]
"""As in the Makefile."""


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    # A proxy that is not there: whatever asks for a page of another project fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, **nowhere}
    command = [sys.executable, *BUILD, str(source), str(target)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    built = build(DOCS, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.glob("**/*.md")}
    missing = [page for page in pages if not (tmp_path / "site" / page).exists()]
    assert missing == []
    assert "Cut a model into pipeline stages" in (tmp_path / "site" / "api.html").read_text()
    commands = (ROOT / "Makefile").read_text()
    assert " ".join(BUILD) in commands


@pytest.mark.parametrize("module", [pipecodec, deepspeed, pipelining, report])
def test_api_page_has_every_public_name(module: ModuleType) -> None:
    names = re.findall(r":: ([\w.]+)|`pipecodec\.\w+\.(\w+)`", (DOCS / "api.md").read_text())
    shown = {name for pair in names for name in pair}
    assert set(module.__all__) - {"__version__", "deepspeed", "pipelining"} <= shown
