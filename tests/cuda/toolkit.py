"""Where the CUDA toolkit is, for tests that compile with it and are skipped without it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

__all__ = ["COMPILER", "HOME", "ROOT", "compile_with", "needs_toolkit"]

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
COMPILER = os.environ.get("CXX", "c++")

needs_toolkit = pytest.mark.skipif(
    not (HOME / "bin" / "nvcc").exists() or not (HOME / "include" / "cuda_runtime.h").exists(),
    reason=f"there is no CUDA toolkit at {HOME}; CUDA_HOME says where it is",
)


def compile_with(compiler: str | Path, *arguments: str | Path) -> str:
    """Compile from the repository's root; return the compiler's output, or fail with it."""
    command = [str(compiler), "-std=c++20", f"-I{ROOT}", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
