"""Builds pipecodec._C, the C++ part, against the installed torch; the rest is in pyproject.toml."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import __version__ as setuptools_version
from setuptools import setup
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent

if int(setuptools_version.split(".")[0]) < 77:  # an older one cannot read pyproject.toml
    sys.exit(
        f"pipecodec is built with setuptools 77 or newer, this is {setuptools_version}: "
        "run 'pip install --upgrade setuptools'"
    )

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit(
        "pipecodec builds against the torch that it will run with, and there is none in this "
        "environment. The one that pip makes for building never has it: run 'pip install torch "
        '"setuptools>=77" wheel ninja\', then the same command with --no-build-isolation'
    )

ARCHITECTURES = (75, 80, 90, 100)
"""Those to compile kernels for, where nvcc knows them; later ones use the last one's PTX."""


TORCH = torch.__version__.split("+")[0]


class BuildCodec(BuildExtension):
    """Builds the extension and notes which torch it belongs to, since it runs with no other."""

    def run(self) -> None:
        """Build, then write pipecodec/_build.py."""
        super().run()
        package = Path(self.build_lib if not self.inplace else ROOT) / "pipecodec"
        (package / "_build.py").write_text(
            '"""Written by setup.py: what was built, and against which torch."""\n\n'
            f"VERSION = {self.get_finalized_command('egg_info').egg_version!r}\n"
            f"TORCH = {TORCH!r}\n"
        )


class ForOneTorch(egg_info):
    """Metadata of a wheel that is handed on as a binary: it says which torch it runs with."""

    def finalize_options(self) -> None:
        """Add torch to the version, as local part, and require that torch alone."""
        device = f"cu{torch.version.cuda.replace('.', '')}" if CUDA else "cpu"
        self.tag_build = f"+{device}torch{TORCH}"
        super().finalize_options()
        needs = self.distribution.install_requires
        others = [need for need in needs if re.split(r"[^\w-]", need)[0] != "torch"]
        self.distribution.install_requires = [*others, f"torch=={TORCH}"]
        self.distribution.metadata.install_requires = self.distribution.install_requires


def nvcc(*arguments: str) -> str:
    """Return the output of the toolkit's compiler, or nothing if there is no whole toolkit."""
    parts = [Path(CUDA_HOME or "", part) for part in ("bin/nvcc", "include/cuda_runtime.h")]
    if CUDA_HOME is None or not all(part.exists() for part in parts):
        return ""
    return subprocess.check_output([str(parts[0]), *arguments], text=True)


def missing_for_cuda() -> str | None:
    """Say why kernels cannot be built here; whether there is a GPU does not matter."""
    wanted = torch.version.cuda
    if wanted is None:
        return f"torch {torch.__version__} is no CUDA build; install one that is"
    release = re.search(r"release (\d+)", nvcc("--version"))
    if release is None:
        return f"there is no CUDA toolkit at {CUDA_HOME}; set CUDA_HOME to the root of one"
    if release[1] != wanted.split(".")[0]:
        return f"torch needs a CUDA toolkit of version {wanted}, {CUDA_HOME} has {release[1]}"
    return None


def setting(name: str) -> str:
    """Return the environment's "0" or "1", or nothing where it says nothing."""
    asked = os.environ.get(name, "")
    if asked not in ("", "0", "1"):
        sys.exit(f"{name} must be 0 or 1, not {asked!r}")
    return asked


def with_cuda() -> bool:
    """Decide whether to build the kernels: where that is possible, or as PIPECODEC_CUDA says."""
    asked = setting("PIPECODEC_CUDA")
    if asked == "0":
        return False
    missing = missing_for_cuda()
    if missing and asked == "1":
        sys.exit(f"PIPECODEC_CUDA=1, but {missing}")
    return missing is None


def architectures() -> list[str]:
    """Return nvcc's flags for the architectures, unless TORCH_CUDA_ARCH_LIST names them."""
    if "TORCH_CUDA_ARCH_LIST" in os.environ:
        return []
    known = [arch for arch in ARCHITECTURES if f"sm_{arch}" in nvcc("--list-gpu-code").split()]
    real = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in known]
    return [*real, f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"]


CUDA = with_cuda()
LAYERS = ("frame", "structure", "device", "codec", "ring", "python") + ("cuda",) * CUDA
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for layer in LAYERS
    for kind in ("*.cpp", "*.cu")
    for path in sorted((ROOT / "csrc" / layer).glob(kind))
]
DEBUG = setting("PIPECODEC_DEBUG") == "1"
OPTIMIZED, CHECKED = ["-O2", "-g0"], ["-O1", "-g", "-DPIPECODEC_DEBUG", "-D_GLIBCXX_ASSERTIONS"]
# torch's macro keeps streams and locales out of the error paths of its inline functions; the map
# lets internal errors name csrc/... wherever it was built. The last flag wins: the user's.
FLAGS = [
    *["-std=c++20", "-Wall", "-fvisibility=hidden", "-DSTRIP_ERROR_MESSAGES"],
    f"-fmacro-prefix-map={ROOT}/=",
    *(CHECKED if DEBUG else OPTIMIZED),
    *shlex.split(os.environ.get("CFLAGS", "")),
]

setup(
    ext_modules=[
        CUDAExtension(
            "pipecodec._C",
            SOURCES,
            include_dirs=[str(ROOT)],
            extra_compile_args={
                "cxx": FLAGS,
                "nvcc": ["-std=c++20", "-O3", "-Xcompiler=-fvisibility=hidden", *architectures()],
            },
        )
        if CUDA
        else CppExtension(
            "pipecodec._C", SOURCES, include_dirs=[str(ROOT)], extra_compile_args=FLAGS
        )
    ],
    cmdclass={"build_ext": BuildCodec}
    | ({"egg_info": ForOneTorch} if setting("PIPECODEC_BINARY") == "1" else {}),
)
