"""The check of words counts the sentences that it is there for, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.words import nouns, prose


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("a.md", "What arrives is what was sent. See what follows;\nwhatever it is.", 3),
        ("a.md", 'What is a frame? `what` and "what is it" are quoted.', 0),
        ("a.md", "```\nwhat is code\n```\n[what it is](what.md)", 1),
        ("a.py", 'def what():\n    """Return what is left."""\n    what = "what is that"', 1),
        ("a.py", "# Knows what follows,\n# and what is left.\nx = 1", 2),
        ("a.cpp", "// Of what is left.\nint what = 1;  /* what\nfollows */", 2),
        ("a.cpp", 'raise("what is // what it is");', 0),
    ],
)
def test_what_as_a_noun(tmp_path: Path, name: str, source: str, count: int) -> None:
    path = tmp_path / name
    path.write_text(source)
    assert len(nouns(prose(path))) == count
