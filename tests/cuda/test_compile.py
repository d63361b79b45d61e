"""The CUDA sources compiled for every architecture, and their host file against any torch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from .toolkit import COMPILER, HOME, compile_with, needs_toolkit

ARCHITECTURES = (75, 80, 90, 100)
KERNELS = {"copy_regions", "write_inline", "compare_bytes"}
TORCH = Path(torch.__file__).parent / "include"


def figures(log: str) -> dict[tuple[int, str], dict[str, int]]:
    """Return registers and bytes of stack and spills from ptxas, by architecture and kernel."""
    found: dict[tuple[int, str], dict[str, int]] = {}
    for part in log.split("Compiling entry function ")[1:]:
        head = re.match(r"'(\S+)' for 'sm_(\d+)'", part)
        assert head, part
        (kernel,) = (name for name in KERNELS if name in head[1])
        memory = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        registers = re.search(r"Used (\d+) registers", part)
        assert memory and registers, part
        found[int(head[2]), kernel] = {
            "registers": int(registers[1]),
            "stack": int(memory[1]),
            "spilled": int(memory[2]) + int(memory[3]),
        }
    return found


@needs_toolkit
def test_kernels_stay_in_registers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = ARCHITECTURES[-1]
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    targets.append(f"-gencode=arch=compute_{last},code=compute_{last}")
    log = compile_with(
        HOME / "bin" / "nvcc",
        *("-c", "-O3", "-Werror=all-warnings", "-Xptxas=-v", *targets),
        *("csrc/cuda/kernels.cu", "-o", tmp_path / "kernels.o"),
    )
    found = figures(log)
    assert found.keys() == {(arch, kernel) for arch in ARCHITECTURES for kernel in KERNELS}
    with capsys.disabled():
        for kernel in sorted(KERNELS):
            each = (f"sm_{a}: {found[a, kernel]['registers']}" for a in ARCHITECTURES)
            print(f"\nregisters of {kernel}: " + ", ".join(each), end="")
        print()
    for where, figure in found.items():
        assert figure["stack"] == figure["spilled"] == 0, where
        # 256 threads in a block, and on each of these 65,536 registers for 1,024 threads or more.
        assert figure["registers"] <= 64, where


@needs_toolkit
def test_host_file_compiles_against_this_torch(tmp_path: Path) -> None:
    """CPU builds of torch have all headers for it but this one, which says how torch was built."""
    if not (TORCH / "c10/cuda/impl/cuda_cmake_macros.h").exists():
        missing = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
        missing.parent.mkdir(parents=True)
        missing.write_text("#define C10_CUDA_BUILD_SHARED_LIBS\n")
    compile_with(
        COMPILER,
        *("-c", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC"),
        *(f"-I{tmp_path}", f"-isystem{TORCH}", f"-isystem{HOME / 'include'}"),
        *("csrc/cuda/queue.cpp", "-o", tmp_path / "queue.o"),
    )
