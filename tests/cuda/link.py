"""Builds the extension against a CUDA build of torch, links and imports it; needs no GPU.

``make cuda-link`` puts torch alone, without NVIDIA's libraries (4 GB), into a folder of its own. In
their place come stubs: libraries of the same names and versions whose symbols are empty memory.
Nothing is missed before something calls them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import IO

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
OWN = ("libtorch", "libc10", "libshm", "libcaffe2", "libgomp", "libcuda.so")
SYSTEM = ("libc.", "libm.", "libdl.", "librt.", "libpthread.", "libstdc++.", "libgcc_s.", "ld-")

CHECK = """
import os, sys
sys.setdlopenflags(os.RTLD_LAZY)
import torch, pipecodec
from pipecodec import _C
assert _C.WITH_CUDA, "built without the kernels"
value = {"hidden": torch.arange(6.0), "step": 7, "cache": None}
got = pipecodec.unpack(pipecodec.pack(value))
assert got["step"] == 7 and torch.equal(got["hidden"], value["hidden"])
print("imported", _C.__file__)
print("torch", torch.__version__, "cuda", torch.version.cuda, "gpu", torch.cuda.is_available())
"""


def main(folder: Path) -> None:
    """Build, link and import; ``folder`` has torch in ``site``."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    site, stubs = folder / "site", folder / "stubs"
    stub_libraries(site / "torch" / "lib", stubs, home / "lib64")
    environment = {
        **os.environ,
        "CUDA_HOME": str(home),
        "PIPECODEC_CUDA": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [site, folder / "lib", ROOT])),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, [stubs, home / "lib64"])),
    }
    build = f"setup.py --quiet build --build-base {folder / 'build'} --build-lib {folder / 'lib'}"
    lazily = "import os, runpy, sys; sys.setdlopenflags(os.RTLD_LAZY); del sys.argv[0]; "
    lazily += "runpy.run_path('setup.py', run_name='__main__')"
    with (folder / "build.log").open("w") as log:
        run([sys.executable, "-c", lazily, *build.split()], environment, output=log)
    (extension,) = (folder / "lib" / "pipecodec").glob("_C*.so")
    needed = [line.split()[1] for line in objdump("-p", extension) if "NEEDED" in line]
    print("linked to", *needed)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [folder / "lib", site]))
    run([sys.executable, "-c", CHECK], environment, folder)


def run(
    command: list[str],
    environment: dict[str, str],
    folder: Path = ROOT,
    output: IO[str] | None = None,
) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, env=environment, cwd=folder, check=True, stdout=output, stderr=output)


def objdump(option: str, library: Path) -> list[str]:
    """Return the lines that objdump prints of a library."""
    return subprocess.check_output(["objdump", option, str(library)], text=True).splitlines()


def stub_libraries(libraries: Path, stubs: Path, toolkit: Path) -> None:
    """Make a stub of each library that those in the folder need and the toolkit does not have."""
    versions: dict[str, set[str]] = {}
    symbols: dict[str, set[str]] = {}  # by their version; a variable among them is needed at once
    for library in libraries.glob("*.so*"):
        name = ""
        for line in objdump("-p", library):
            if found := re.match(r"\s*NEEDED\s+(\S+)", line):
                versions.setdefault(found[1], set())
            elif found := re.match(r"\s*required from (\S+):", line):
                name = found[1]
            elif found := re.match(r"\s+0x\w+ 0x\w+ \d+ (\S+)", line):
                versions.setdefault(name, set()).add(found[1])
        for line in objdump("-T", library):
            if found := re.search(r"\*UND\*\s+\w+\s+\(?(\S+?)\)?\s+(\S+)$", line):
                symbols.setdefault(found[1], set()).add(found[2])
    stubs.mkdir(parents=True, exist_ok=True)
    for name, wanted in versions.items():
        if name.startswith(OWN + SYSTEM) or (toolkit / name).exists():
            continue
        script, source = stubs / "versions", stubs / "empty.c"
        nodes = {version: sorted(symbols.get(version, ())) for version in sorted(wanted)}
        script.write_text(
            "".join(f"{node} {{ {'; '.join([*names, ''])}}};\n" for node, names in nodes.items())
        )
        named = sorted({name for names in nodes.values() for name in names})
        source.write_text("".join(f"char {name}[64];\n" for name in named))
        command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", str(stubs / name)]
        if wanted:
            command.append(f"-Wl,--version-script={script}")
        run([*command, str(source)], dict(os.environ))
        print("stub", name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
