"""An environment of one Python and one torch, in which pipecodec is built from its sdist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from ..cuda.link import stub_libraries
from .cells import ROOT

__all__ = ["CannotRunError", "Environment", "interpreter"]

TOOLS = ("setuptools>=77", "wheel", "ninja", "numpy", "packaging")
TESTS = ("pytest", "hypothesis", "xxhash", "pillow")
# The parts of a CUDA build of torch that a CPU has no use for, gigabytes.
LEFT_OUT = ("torch", "triton", "nvidia-", "cuda-", "pytorch-triton")
NEEDS = """
import importlib.metadata, sys
from packaging.requirements import Requirement
for line in importlib.metadata.requires(sys.argv[1]) or ():
    need = Requirement(line)
    if need.marker is None or need.marker.evaluate({"extra": ""}):
        print(need.name + str(need.specifier))
"""
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "DS_BUILD_OPS": "0",
    "HF_HUB_OFFLINE": "1",
    "PIPECODEC_CUDA": "0",
}


# pip's words where the index has no such version, and where a constraint forbids it.
MISSING = re.compile(r"^ERROR: (?:No matching distribution found for|Cannot install) (\S+)", re.M)


class CannotRunError(Exception):
    """A combination cannot be tried; the text is its row: why it was not run, or which error."""


class Environment:
    """A virtual environment with pipecodec's sources and its tests beside it."""

    def __init__(self, folder: Path, interpreter: Path, torch: str, sdist: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.python = folder / "venv" / "bin" / "python"
        self._log = folder / "log.txt"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._run([interpreter, "-m", "venv", folder / "venv"])
        self._pip(*TOOLS, *TESTS)
        self.alone(f"torch=={torch}", "--no-cache-dir")
        self._without_cuda()
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        next(folder.glob("pipecodec-*")).rename(self.source)
        self._run([*self._install, "--no-deps", "--editable", self.source])
        self._needs("pipecodec")

    @property
    def _install(self) -> list[str | Path]:
        return [self.python, "-m", "pip", "install", "--quiet", "--no-build-isolation"]

    def alone(self, requirement: str, *options: str) -> None:
        """Install a package, and those it needs but for torch and NVIDIA's libraries."""
        self._run([*self._install, *options, "--no-deps", requirement])
        self._needs(requirement.partition("==")[0])

    def pytest(self, arguments: Sequence[str]) -> str:
        """Run the tests; return pytest's last line, whether they pass or not."""
        command = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        ended = self._call(command, self.source)
        return (ended.stdout.strip().splitlines() or [f"pytest ended with {ended.returncode}"])[-1]

    def _needs(self, name: str) -> None:
        listed = self._run([self.python, "-c", NEEDS, name]).splitlines()
        self._pip(*(need for need in listed if not need.startswith(LEFT_OUT)))

    def _pip(self, *requirements: str) -> None:
        if requirements:
            self._run([*self._install, *requirements])

    def _without_cuda(self) -> None:
        """Put libraries without functions in the place of those that were left out."""
        (packages,) = (self.folder / "venv").glob("lib/python3*/site-packages")
        libraries = packages / "torch" / "lib"
        if not (libraries / "libtorch_cuda.so").exists():
            return
        found = re.search(
            r"^cuda.*= '((\d+)\.\d+)'", (libraries.parent / "version.py").read_text(), re.M
        )
        # The runtime itself, which says that there is no GPU.
        self._pip(f"nvidia-cuda-runtime{'-cu12' if found[2] == '12' else ''}=={found[1]}.*")
        (runtime,) = packages.glob("nvidia/*/lib/libcudart.so.*")
        lazily = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n"
        (packages / "lazily.pth").write_text(lazily)
        stub_libraries(libraries, libraries, runtime.parent)

    def _run(self, command: Sequence[str | Path]) -> str:
        ended = self._call(command, self.folder)
        if ended.returncode:
            missing = MISSING.search(ended.stderr)
            raise CannotRunError(
                f"not run: pip found no {missing[1]} to install"
                if missing
                else f"1 error: {Path(command[-1]).name} failed, see {self._log.relative_to(ROOT)}"
            )
        return ended.stdout

    def _call(
        self, command: Sequence[str | Path], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        told = {**os.environ, **SETTINGS}
        told.pop("PYTHONPATH", None)
        ended = subprocess.run(
            list(map(str, command)), env=told, cwd=folder, capture_output=True, text=True
        )
        with self._log.open("a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}\n")
        return ended


def interpreter(version: str) -> Path:
    """Return a Python of this minor version: that of PYTHONS, or the PATH's, with its headers."""
    given = os.environ.get("PYTHONS", "").split()
    show = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]); "
    show += "print(sysconfig.get_path('include'))"
    for name in [*given, f"python{version}", sys.executable]:
        path = shutil.which(name)
        if path is None:
            continue
        ended = subprocess.run([path, "-c", show], capture_output=True, text=True, cwd=ROOT)
        lines = ended.stdout.splitlines()
        if lines[:1] == [version] and (Path(lines[1]) / "Python.h").exists():
            return Path(path)
    raise CannotRunError(f"not run: no python{version} with its headers")
