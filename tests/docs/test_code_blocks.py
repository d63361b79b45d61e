"""Every block of Python in README and the pages runs, in the order of its page.

The words after a fence's language say how: ``ranks=N`` (the page runs in N processes),
``with=NAME`` (a scene of scenes.py goes before it), ``fresh`` (it runs in processes of its own,
behind the blocks without this word; those that train give equal ``losses``), ``notest``
and a reason for which it cannot run. Blocks of the symptom pages are test_symptoms.py's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pipecodec.demo.launch import Rank
from tests.distributed.harness import values

from .pages import DOCS, ROOT, Block, blocks
from .scenes import AFTER, SCENES

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
ELSEWHERE = ("run=", "program=")


def runnable(page: Path) -> list[Block]:
    found = [block for block in blocks(page) if block.language == "python"]
    return [
        block
        for block in found
        if not any(word.startswith(ELSEWHERE) for word in block.words)
        and "notest" not in block.words
    ]


def settings(block: Block) -> dict[str, str]:
    return dict(word.split("=", 1) for word in block.words if "=" in word)


def execute(rank: Rank, folder: str, sources: list[tuple[str, str]]) -> list[float]:
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for place, source in sources:
        rank.say(place)
        exec(compile(source, place, "exec"), names)
    return [float(loss) for loss in names.get("losses", [])]


def sources_of(block: Block) -> list[tuple[str, str]]:
    scene = settings(block).get("with")
    before = [(f"the scene of {block}", SCENES[scene])] if scene is not None else []
    return [*before, (str(block), block.text)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    name = str(page.relative_to(ROOT))
    found = runnable(page)
    ranks = max(int(settings(block).get("ranks", "1")) for block in found)
    shared = [pair for b in found if "fresh" not in b.words for pair in sources_of(b)]
    starts = [sources_of(block) for block in found if "fresh" in block.words]
    losses = []
    for start in starts or [[(f"after {name}", AFTER.get(name, ""))]]:
        of_ranks = values(execute, ranks, str(tmp_path), [*shared, *start], timeout=240.0)
        losses.append(max(of_ranks, key=len))
    first, *others = [each for each in losses if each] or [[]]
    for other in others:
        assert other == pytest.approx(first, rel=1e-6)
        assert len(other) > 1


def test_blocks_that_do_not_run_have_a_reason() -> None:
    for page in PAGES:
        for block in blocks(page):
            if "notest" in block.words:
                assert len(block.words) > 3, f"{block} does not say why it is not run"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """The make targets, modules, scripts and programs that a page's commands name are there."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page):
        if block.language != "sh":
            continue
        text = re.sub(r"\\\n", " ", re.sub(r"#.*", "", block.text))
        for target in re.findall(r"\bmake ([\w-]+)", text):
            assert target in targets, (str(block), target)
        for module in re.findall(r"python[\d.]* -m ([\w.]+)", text):
            place = ROOT / module.replace(".", "/")
            ours = module.split(".")[0] in ("pipecodec", "tests", "benchmarks", "examples")
            assert not ours or place.is_dir() or place.with_suffix(".py").exists(), module
        for script in re.findall(r"\b((?:examples|tests|benchmarks)/[\w/]+\.py)", text):
            assert (ROOT / script).exists(), (str(block), script)
        if "pipecodec" in re.findall(r"^(\w+)", text, re.MULTILINE):
            assert (ROOT / "pipecodec" / "cli").is_dir(), str(block)
