"""The sdist and the wheel: their contents, their metadata, and a use outside of the clone."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import torch

import pipecodec

ROOT = Path(__file__).resolve().parents[1]
TORCH = torch.__version__.split("+")[0]
ONLY_IN_THE_CLONE = {".ci/run", ".gitignore", ".pre-commit-config.yaml"}
MADE = {"PKG-INFO", "setup.cfg"}


def run(
    command: list[str], folder: Path, expect: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    told = {**os.environ, "PIPECODEC_CUDA": "0", "PIPECODEC_BINARY": "0"} | environment
    told.pop("PYTHONPATH", None)
    ended = subprocess.run(
        command, cwd=folder, env=told, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return ended


def setup(source: Path, *arguments: str, **environment: str) -> None:
    run([sys.executable, "setup.py", "--quiet", *arguments], source, **environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    own = ["egg_info", "--egg-base", str(folder)]
    setup(ROOT, *own, "sdist", "--dist-dir", str(folder))
    (file,) = folder.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent / "unpacked")
    (folder,) = (sdist.parent / "unpacked").iterdir()
    return folder


def wheel_of(source: Path, folder: Path, **environment: str) -> Path:
    """A wheel of the sources, with the extension of these tests, since compiling takes a minute."""
    setup(source, "build_py", **environment)
    (library,) = (source / "build").glob("lib*")
    package = Path(pipecodec.__file__).parent
    for built in (*package.glob("_C*.so"), package / "_build.py"):
        shutil.copy(built, library / "pipecodec")
    setup(source, "bdist_wheel", "--skip-build", "--dist-dir", str(folder), **environment)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(unpacked, tmp_path_factory.mktemp("wheel"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (it for it in archive.namelist() if it.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git tells which files are kept")
def test_sdist_has_all_that_is_kept_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {
            member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()
        }
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    kept = {*run(listed, ROOT).stdout.splitlines()}
    assert {name for name in names - MADE if ".egg-info/" not in name} == kept - ONLY_IN_THE_CLONE


def test_wheel_has_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    of_package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pipecodec").rglob("*")
        if path.is_file() and path.suffix in (".py", ".pyi", ".so", ".typed")
    }
    assert of_package >= {"pipecodec/py.typed", "pipecodec/_C.pyi", "pipecodec/_build.py"}
    assert {name for name in names if ".dist-info/" not in name} == of_package
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_metadata(wheel: Path) -> None:
    said = metadata(wheel)
    assert said["Version"] == pipecodec.__version__.partition("+")[0]
    assert said["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in said.get_all("Classifier", [])
    assert f"# {said['Name']}" in str(said.get_payload())  # README
    assert "torch<2.16,>=2.9" in said.get_all("Requires-Dist", [])


def test_all_that_is_imported_with_the_package_is_declared(wheel: Path) -> None:
    """An extra's packages by that engine and the demo alone; functions import others on demand."""
    needs = [need.partition(";") for need in metadata(wheel).get_all("Requires-Dist", [])]
    plain = {re.split(r"[^\w-]", name)[0] for name, _, extra in needs if not extra}
    extras = {re.split(r"[^\w-]", name)[0] for name, _, extra in needs if extra}
    assert plain >= {"torch", "numpy"}  # torch's own metadata leaves numpy out
    for path in (ROOT / "pipecodec").rglob("*.py"):
        room = path.relative_to(ROOT / "pipecodec").parts[0]
        declared = plain | extras if room in ("deepspeed", "demo") else plain
        assert imported_with(path) <= declared | sys.stdlib_module_names | {"pipecodec"}, path


def imported_with(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_wheel_that_is_handed_on_names_its_torch(unpacked: Path, tmp_path: Path) -> None:
    wheel = wheel_of(unpacked, tmp_path, PIPECODEC_BINARY="1")
    said = metadata(wheel)
    own = pipecodec.__version__.partition("+")[0]
    assert said["Version"] == f"{own}+cputorch{TORCH}"
    requires = said.get_all("Requires-Dist", [])
    assert [need for need in requires if need.startswith("torch")] == [f"torch=={TORCH}"]


def test_wheel_is_used_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows torch, and gets nothing from the clone."""
    place = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--target", str(place), str(wheel)], tmp_path)
    script = (
        "import importlib.metadata, torch, pipecodec; "
        "value = {'hidden': torch.ones(2, 3), 'step': 7, 'cache': None}; "
        "got = pipecodec.unpack(pipecodec.pack(value)); "
        "assert got['step'] == 7 and torch.equal(got['hidden'], value['hidden']); "
        "print(pipecodec.__file__, pipecodec.__version__, importlib.metadata.version('pipecodec'))"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    told = {**os.environ, "PYTHONPATH": str(place)}
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=empty, env=told, capture_output=True, text=True,
        timeout=60, check=True,
    ).stdout.split()  # fmt: skip
    assert said == [str(place / "pipecodec" / "__init__.py"), *[pipecodec.__version__] * 2]


def test_without_torch_the_build_says_how(unpacked: Path) -> None:
    """As it is where pip builds in an isolated environment."""
    hidden = "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['setup.py', 'egg_info']; "
    hidden += "runpy.run_path('setup.py', run_name='__main__')"
    said = run([sys.executable, "-c", hidden], unpacked, expect=1).stderr
    assert "builds against the torch that it will run with" in said
    assert "--no-build-isolation" in said
    assert "Traceback" not in said


def test_unbuilt_sources_say_how_they_are_built(unpacked: Path) -> None:
    # -S: an editable install's finder, which would find the built module, is not loaded.
    packages = Path(torch.__file__).parents[1]
    alone = f"import sys; sys.path.append({str(packages)!r}); import pipecodec"
    said = run([sys.executable, "-S", "-c", alone], unpacked, expect=1).stderr
    assert re.search(r"ImportError: pipecodec's extension has not been built: run 'pip in", said)
