"""nvcc's own code for the kernels, run by the host: its PTX, and its objects' way of launching.

Neither ptxas nor a driver is tested. The interface between nvcc's objects and CUDA's runtime is
internal to CUDA, so these tests are bound to the release they were written for.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .ptx import translate
from .toolkit import COMPILER, HOME, ROOT, compile_with, needs_toolkit

TESTS = ROOT / "csrc" / "tests"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@needs_toolkit
@pytest.mark.parametrize("architecture", ["compute_75", "compute_100"])
def test_kernels_as_nvcc_translates_them(tmp_path: Path, architecture: str) -> None:
    nvcc = HOME / "bin" / "nvcc"
    if "release 13." not in subprocess.check_output([nvcc, "--version"], text=True):
        pytest.skip("nvcc is not of CUDA 13, whose objects csrc/tests/cuda_ptx can run")
    made = tmp_path / "kernels.o"
    target = f"-gencode=arch={architecture},code={architecture}"
    keep = ["--keep", f"--keep-dir={tmp_path}"]
    compile_with(nvcc, "-c", "-O3", target, *keep, "csrc/cuda/kernels.cu", "-o", made)
    translated = tmp_path / "entries.cpp"
    translated.write_text(translate((tmp_path / "kernels.ptx").read_text()))
    program = tmp_path / "program"
    compile_with(
        COMPILER,
        *("-O1", "-g1", "-Wno-tautological-compare", f"-I{TESTS / 'cuda_on_host'}", *SANITIZE),
        *(translated, TESTS / "cuda_ptx" / "runtime.cpp"),
        *sorted((TESTS / "cuda_on_host").glob("*.cpp")),
        *("-xnone", made, "-o", program, "-pthread"),
    )
    ended = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_unknown_instructions_are_refused() -> None:
    for line in ("fma.rn.f32 %f1, %f2, %f3, %f4;", "setp.lt.and.u32 %p1, %r1, %r2, %p2;"):
        with pytest.raises(ValueError, match="unknown PTX"):
            translate(f".entry kernel(\n)\n{{\n{line}\n}}\n")
