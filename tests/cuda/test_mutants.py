"""Each kernel with one thing wrong: the tests of csrc/tests/cuda_on_host must notice every one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .toolkit import COMPILER, ROOT, compile_with

SOURCE = (ROOT / "csrc/cuda/kernels.cu").read_text()
ON_HOST = ROOT / "csrc/tests/cuda_on_host"

SANITIZERS = {
    "memory": (["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], 1),
    "races": (["-fsanitize=thread"], 3),
}
"""Flags, and how many threads run at once."""

HALT = "halt_on_error=1"

WORDS = "for (uint64_t at = begin + threadIdx.x * sizeof(Word); at < end; at += "
STRIDE = WORDS + "kThreads * sizeof(Word)) {"

MUTANTS = {
    "write: no alignment check": ("if (aligned<uint4>(region.from, region.to))", "if (true)"),
    "write: only one pointer checked": (
        "(reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b))",
        "reinterpret_cast<uintptr_t>(b)",
    ),
    "write: reads over the end": (
        "if (at + sizeof(Word) <= region.bytes)",
        "if (at < region.bytes)",
    ),
    "write: zeros over the end": (
        "at >= region.bytes && at + sizeof(Word) <= end",
        "at >= region.bytes",
    ),
    "write: too large a stride": (
        STRIDE + "\n    Word* const",
        WORDS + "(kThreads + 1) * sizeof(Word)) {\n    Word* const",
    ),
    "write: tail is left out": ("i < smaller(at + sizeof(Word), end)", "i < at"),
    "write: padding is not zeros": ("i < region.bytes ? region.from[i] : 0", "region.from[i]"),
    "write: 32-bit places": (
        "const uint64_t begin = block * kShare;",
        "const uint32_t begin = static_cast<uint32_t>(block * kShare);",
    ),
    "copy: surplus blocks": ("if (region == table.count) return;", ""),
    "copy: block of the next region": (
        "table.ends[middle] <= blockIdx.x",
        "table.ends[middle] < blockIdx.x",
    ),
    "copy: every region from its front": (
        "blockIdx.x - (region == 0 ? 0 : table.ends[region - 1])",
        "blockIdx.x",
    ),
    "copy: second launch has the first one's regions": (
        "table.count = 0;\n    blocks = 0;",
        "blocks = 0;",
    ),
    "compare: no alignment check": ("aligned<uint4>(a, b)      ?", "true ?"),
    "compare: one word in four": (" | (a.w ^ b.w)", ""),
    "compare: only the last one counts": (
        "found |= differ(*reinterpret_cast",
        "found = differ(*reinterpret_cast",
    ),
    "compare: last byte": (
        "for (uint64_t i = at; i < end; ++i) found",
        "for (uint64_t i = at; i + 1 < end; ++i) found",
    ),
    "compare: over the end": ("if (at + sizeof(Word) <= end) {", "if (at < end) {"),
    "compare: too large a stride": (
        STRIDE + "\n    if (at",
        WORDS + "(kThreads + 1) * sizeof(Word)) {\n    if (at",
    ),
    "compare: 32-bit places": (
        "const uint64_t begin = blockIdx.x * kShare;",
        "const uint32_t begin = static_cast<uint32_t>(blockIdx.x * kShare);",
    ),
    "compare: clears the flag": (
        "if (found) atomicOr(mismatch_flag, 1u);",
        "*mismatch_flag = found;",
    ),
    "launch: another stream": ("config.stream = stream;", ""),
    "launch: a block too few": ("(bytes + kShare - 1) / kShare", "bytes / kShare"),
    "write: threads that overlap": (
        STRIDE + "\n    Word* const",
        WORDS + "sizeof(Word)) {\n    Word* const",
    ),
    "write: blocks that overlap": (
        "smaller(begin + kShare, region.room)",
        "smaller(begin + 2 * kShare, region.room)",
    ),
    "compare: flag without atomics": (
        "atomicOr(mismatch_flag, 1u)",
        "*mismatch_flag |= 1",
    ),
}
RACES = {
    "write: threads that overlap",
    "write: blocks that overlap",
    "compare: flag without atomics",
}
"""Mutants that still give the right bytes when threads run one after the other."""

Build = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds the test program with another source of the kernels, under a sanitizer."""
    folder = tmp_path_factory.mktemp("mutants")

    def compiled(source: Path, sanitizer: str) -> Path:
        made = folder / f"{source.stem}_{sanitizer}.o"
        if not made.exists() or source.suffix == ".cu":
            flags = ["-O1", "-g1", f"-I{ON_HOST}", *SANITIZERS[sanitizer][0]]
            compile_with(COMPILER, *flags, "-c", "-xc++", source, "-o", made)
        return made

    def linked(text: str, sanitizer: str) -> Path:
        source = folder / "kernels.cu"
        source.write_text(text)
        objects = [compiled(each, sanitizer) for each in [source, *sorted(ON_HOST.glob("*.cpp"))]]
        program = folder / "program"
        compile_with(COMPILER, *SANITIZERS[sanitizer][0], "-pthread", *objects, "-o", program)
        return program

    return linked


def run(program: Path, sanitizer: str) -> subprocess.CompletedProcess[str]:
    command, environment = [program, str(SANITIZERS[sanitizer][1])], {"TSAN_OPTIONS": HALT}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_noticed(build: Build, name: str) -> None:
    right, wrong = MUTANTS[name]
    assert SOURCE.count(right) == 1, f"{right!r} is no longer there; change this mutant with it"
    sanitizer = "races" if name in RACES else "memory"
    ended = run(build(SOURCE.replace(right, wrong), sanitizer), sanitizer)
    assert ended.returncode != 0, ended.stdout
    signs = ["data race"] if name in RACES else ["failed: ", "runtime error", "AddressSanitizer"]
    assert any(sign in ended.stderr for sign in signs), ended.stderr


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_unchanged_kernels_pass(build: Build, sanitizer: str) -> None:
    ended = run(build(SOURCE, sanitizer), sanitizer)
    assert ended.returncode == 0, ended.stderr
