"""Folders of the package know those above them in CONTRIBUTING.md, and engines not each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipecodec

PACKAGE = Path(pipecodec.__file__).parent
ENGINES = (
    "deepspeed",
    "pipecodec.deepspeed",
    "pipecodec.pipelining",
    "torch.distributed.pipelining",
)


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of all imports in a module of the package, at any depth."""
    here = ("pipecodec", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            outer = here[: len(here) + 1 - node.level] if node.level else ()
            module = ".".join([*outer, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms() -> list[str]:
    """The folders in the order of CONTRIBUTING.md's table, and in it all that there are."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    named = re.findall(r"^\| [^|]+ \| [^|]*`pipecodec/(\w+)/`", text, re.MULTILINE)
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted([*named, "legacy"]) == sorted(there)
    return named


def test_folders_import_those_above_them_alone() -> None:
    above: list[str] = []
    for room in rooms():
        above.append(room)
        for path in (PACKAGE / room).rglob("*.py"):
            for name in imported(path):
                target = name.removeprefix("pipecodec.").partition(".")[0]
                ours = name.startswith("pipecodec.") and (PACKAGE / target).is_dir()
                assert not ours or target in above, f"{path.relative_to(PACKAGE)} imports {name}"


def of_an_engine(folder: str) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for name in imported(path)
        if any(f"{name}.".startswith(f"{engine}.") for engine in ENGINES)
    ]


def test_what_engines_share_imports_none_of_them() -> None:
    assert of_an_engine("engine") == []
    assert of_an_engine("stages") == []
    assert of_an_engine("report") == []
    assert len(of_an_engine("deepspeed")) > 10  # so that names are found at all


def test_engines_do_not_know_each_other() -> None:
    assert not [line for line in of_an_engine("pipelining") if "deepspeed" in line]
    assert not [line for line in of_an_engine("deepspeed") if "pipelining" in line]


@pytest.mark.slow
def test_what_engines_share_is_importable_without_any() -> None:
    modules = [
        f"pipecodec.{path.parent.name}.{path.stem}"
        for folder in ("engine", "stages", "report")
        for path in (PACKAGE / folder).glob("[!_]*.py")
    ]
    assert len(modules) > 15
    code = (
        "import sys, importlib\n"
        "sys.modules['deepspeed'] = None\n"  # importing it is an error now
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
