"""The pages of this repository and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "ROOT", "Block", "blocks", "prose"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block between fences: its language, the words after it, and its lines."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    source = page.read_text()
    found = []
    for match in FENCE.finditer(source):
        language, *words = match[2].split() or [""]
        line = source.count("\n", 0, match.start()) + 1
        text = "".join(row.removeprefix(match[1]) for row in match[3].splitlines(keepends=True))
        found.append(Block(page, line, language, tuple(words), text))
    return found


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text())
