"""Messages of setup.py about the kernels, before it builds anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def setup(asked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, "PIPECODEC_CUDA": asked},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch can have kernels")
def test_kernels_that_cannot_be_built_are_no_error_unless_asked_for() -> None:
    assert setup("").returncode == 0
    asked = setup("1")
    assert asked.returncode == 1
    assert f"PIPECODEC_CUDA=1, but torch {torch.__version__} is no CUDA build" in asked.stderr


def test_setting_has_two_values() -> None:
    ended = setup("yes")
    assert ended.returncode == 1
    assert "PIPECODEC_CUDA must be 0 or 1, not 'yes'" in ended.stderr


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no kernels anyway")
def test_a_toolkit_without_a_compiler_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As packages of the runtime alone have it."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert setup("").returncode == 0
    assert "there is no CUDA toolkit" in setup("1").stderr
