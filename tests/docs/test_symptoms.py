"""Each symptom page shows the text that the stock engine really gives, and losses that are right.

A block with ``run=PROGRAM`` holds lines for a program of docs/symptoms/try.md, or is one
(``run=alone``). The ``text`` block after it is the end of that program, word for word but for "…";
``other`` is the end on the rank that did not fail by itself. A program with pipecodec, and one
marked ``right``, ends without an error and with the losses of one process, and one marked ``wrong``
without an error and with other losses.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import pipecodec

from .pages import DOCS, Block, blocks
from .programs import PLACE, PROGRAMS, run

SYMPTOMS = DOCS / "symptoms"
PAGES = sorted(page for page in SYMPTOMS.glob("*.md") if page.stem not in ("index", "try"))
INDEX = SYMPTOMS / "index.md"


def program_of(block: Block) -> str | None:
    return next((w.removeprefix("run=") for w in block.words if w.startswith("run=")), None)


def cases() -> list[Any]:
    found = []
    for page in PAGES:
        inside = blocks(page)
        for block, after in zip(inside, [*inside[1:], None], strict=True):
            if program_of(block) is not None:
                text = after.text.strip() if after is not None and after.language == "text" else ""
                found.append(pytest.param(block, text, id=f"{page.stem}-{block.line}"))
    return found


CASES = cases()


@pytest.mark.parametrize(("block", "text"), CASES)
def test_program_ends_as_the_page_says(block: Block, text: str) -> None:
    program = program_of(block)
    assert program is not None
    ended = run(program, block.text, str(block), 1 if "ranks=1" in block.words else 2)
    if (program.startswith("pipecodec") and not text) or "right" in block.words:
        assert ended.text == "no error"
        assert ended.losses == pytest.approx(of_one_process(program, block.text), rel=1e-6)
    elif "wrong" in block.words:
        assert ended.text == "no error"
        right = of_one_process(program, block.text)
        assert ended.losses != pytest.approx(right, rel=1e-3), "the engine is right by now"
    else:
        # Of the rank that waits a page shows each text that it may read.
        texts = text.splitlines() if "other" in block.words else [text]
        said = ended.other if "other" in block.words else ended.text
        patterns = [".*".join(re.escape(part) for part in each.split("…")) for each in texts]
        assert any(re.fullmatch(pattern, said, re.DOTALL) for pattern in patterns), said


def of_one_process(program: str, lines: str) -> list[float]:
    """Train the same stages in this process: one after the other, and one optimizer."""
    before, _, _ = PROGRAMS[program].partition(PLACE)
    names: dict[str, Any] = {}
    exec(compile(before + lines, "<page>", "exec"), names)
    stages, loss_fn, batch = (names[name] for name in ("stages", "loss_fn", "batch"))
    trained = [p for p in torch.nn.ModuleList(stages).parameters() if p.requires_grad]
    optimizer = names["sgd"](trained)
    on_torch = program.endswith("torch")
    losses = []
    for step in range(3):
        micro = pairs(*batch(step)) if on_torch else [batch(step, i) for i in range(2)]
        optimizer.zero_grad()
        found = []
        for x, target in micro:
            loss = loss_fn(through(stages, x, program), target)
            (loss / len(micro)).backward()
            found.append(loss.item())
        optimizer.step()
        losses += found if on_torch else [sum(found) / len(found)]
    return losses


def pairs(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.chunk(2), y.chunk(2), strict=True))


def through(stages: list[torch.nn.Module], x: Any, program: str) -> Any:
    if program.startswith("pipecodec"):
        return pipecodec.run_local(pipecodec.partition_modules(stages), x)
    for stage in stages:
        x = stage(*x) if program == "torch" and isinstance(x, tuple) else stage(x)
    return x


def rows() -> list[tuple[str, str]]:
    """The error texts of the index, each with its page."""
    section = INDEX.read_text().partition("## By error text")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        if match := re.match(r"\| (.+) \| \[.+\]\(([\w-]+\.md)\) \|$", line):
            found += [(text, match[2]) for text in re.findall(r"`([^`]+)`", match[1])]
    return found


def test_index_quotes_pages() -> None:
    """Each text of the index stands on its page, and each page in the index."""
    texts = rows()
    for text, name in texts:
        shown = " ".join(
            block.text for block in blocks(SYMPTOMS / name) if block.language == "text"
        )
        assert text in " ".join(shown.split()), (text, name)
    in_index = set(re.findall(r"\(([\w-]+\.md)\)", INDEX.read_text()))
    assert {page.name for page in PAGES} <= in_index
    assert len(texts) > 15


def test_every_page_shows_both() -> None:
    """A stock engine's end, and how pipecodec ends."""
    for page in PAGES:
        run_blocks = [block for block in blocks(page) if program_of(block) is not None]
        with_it = [block for block in run_blocks if "pipecodec" in f"{block.words}{block.text}"]
        assert with_it, page
        assert len(run_blocks) > len(with_it), page
