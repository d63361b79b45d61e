"""The settings of setup.py: the kernels, debug builds and flags; nothing is built here."""

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


def flags(**environment: str) -> list[str]:
    """The compiler's flags with these settings."""
    script = (
        "import runpy, setuptools; "
        "setuptools.setup = lambda **kw: print(*kw['ext_modules'][0].extra_compile_args); "
        "runpy.run_path('setup.py')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PIPECODEC_CUDA": "0", "PIPECODEC_DEBUG": "", "CFLAGS": ""}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ended.stdout.split()


def test_a_debug_build_has_checks_and_symbols_and_no_other_has() -> None:
    checks = {"-g", "-O1", "-DPIPECODEC_DEBUG", "-D_GLIBCXX_ASSERTIONS"}
    assert checks <= {*flags(PIPECODEC_DEBUG="1")}
    assert not checks & {*flags()}


def test_flags_of_the_user_win() -> None:
    """Of two that exclude one another the compiler takes the last."""
    for debug in ("0", "1"):
        assert flags(CFLAGS="-O3 -g3", PIPECODEC_DEBUG=debug)[-2:] == ["-O3", "-g3"]


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
