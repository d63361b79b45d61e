"""Links of all pages lead somewhere, on a code host and on the site, and the site has all pages."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from .pages import DOCS, ROOT, blocks, prose

LISTED = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
)
PAGES = [ROOT / name for name in LISTED.stdout.splitlines()]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that a code host gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?)\s*$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = sum(1 for other in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other))
        found.add(f"{slug}-{number}" if number and slug in found else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    wrong = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def listed(page: Path) -> list[Path]:
    """The pages in the toctrees of a page, and in those of these."""
    found = []
    for block in blocks(page):
        if block.language == "{toctree}":
            entries = [line for line in block.text.splitlines() if line and line[0] != ":"]
            for entry in entries:
                name = re.sub(r".* <(.+)>", r"\1", entry)
                found += [page.parent / f"{name}.md", *listed(page.parent / f"{name}.md")]
    return found


def test_every_page_is_in_the_site_once() -> None:
    index = DOCS / "index.md"
    pages = sorted([index, *listed(index)])
    assert pages == sorted(DOCS.glob("**/*.md"))
