"""Builds pipecodec._C, the C++ part, against the installed torch; the rest is in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    sys.exit(
        "pipecodec builds against the torch it will run with, and torch is not installed here: "
        "run 'pip install torch setuptools wheel ninja', then 'pip install --no-build-isolation .'"
    )


class BuildCodec(BuildExtension):
    """Builds the extension and notes which torch it belongs to, since it runs with no other."""

    def run(self) -> None:
        """Build, then write pipecodec/_build.py."""
        super().run()
        package = Path(self.build_lib if not self.inplace else ROOT) / "pipecodec"
        (package / "_build.py").write_text(
            '"""Written by setup.py: what the extension was built against."""\n\n'
            f"TORCH = {torch.__version__.split('+')[0]!r}\n"
        )


SOURCES = [
    path.relative_to(ROOT).as_posix()
    for layer in ("frame", "structure", "device", "codec")
    for path in sorted((ROOT / "csrc" / layer).glob("*.cpp"))
] + ["csrc/bindings.cpp"]

setup(
    ext_modules=[
        CppExtension(
            "pipecodec._C",
            SOURCES,
            include_dirs=[str(ROOT)],
            extra_compile_args=["-std=c++20", "-O2", "-g0", "-Wall", "-fvisibility=hidden"],
        )
    ],
    cmdclass={"build_ext": BuildCodec},
)
