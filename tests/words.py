"""Holds the rule about words: how often "what" is a noun, and which terms are not used any more.

``python -m tests.words`` reads the comments, docstrings and pages of all tracked files, prints how
often "what" stands in a sentence that is no question, for each thousand words, and fails above
``MOST``. It fails too where a name of ``RETIRED`` stands anywhere, in code or in prose.
``--list`` prints each "what" with its place.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 1.0
"""Of "what" as a noun per 1000 words."""

RETIRED: dict[str, str] = {
    "Agreed": "StaticShapes",
    "Opened": "ReceivedFrame",
    "Pattern": "Matcher",
    "Piece": "CopyRegion",
    "Py_UNREACHABLE": "PIPECODEC_BUG",
    "Ref::share": "Ref::borrow",
    "Ref::take": "Ref::steal",
    "Remembered": "CachedFrame",
    "Template": "Builder",
    "_must_look": "_needs_grad_to_classify",
    "come_after": "wait_stream",
    "count_every_stage": "tag_parameters_for_grad_norm",
    "fail_together": "raise_on_all_ranks",
    "fibre": "tie group",
    "give_gradients_away": "donate_gradients",
    "let_ranks_count_nothing": "allow_empty_grad_norm",
    "take_gradient": "donate_gradient",
}
"""A term, and the one to use instead."""

KINDS = {".py", ".pyi", ".cpp", ".h", ".cu", ".md"}
C_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//([^\n]*)|/\*(.*?)\*/', re.S)
WHAT = re.compile(r"\bwhat\b", re.I)
NOT_PROSE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`|\"[^\"\n]*\"|\]\([^)]*\)", re.S)


def of_python(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):  # a docstring, of a name too
                yield text
    comments = [
        token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    yield "\n".join(comments)


def of_cpp(source: str) -> Iterator[str]:
    yield "\n".join(found[1] or found[2] or "" for found in C_COMMENT.finditer(source))


def prose(path: Path) -> str:
    """The sentences of a file, without code and quotations."""
    source = path.read_text()
    if path.suffix == ".md":
        parts: Iterator[str] = iter([source])
    else:
        parts = of_python(source) if path.suffix.startswith(".py") else of_cpp(source)
    return NOT_PROSE.sub(" ", "\n\n".join(parts))


def nouns(text: str) -> list[str]:
    """Each sentence that has "what" and is no question, once for each."""
    sentences = re.split(r"(?<=[.?!:;])\s+|\n\n", text)
    return [
        re.sub(r"\s+", " ", sentence)
        for sentence in sentences
        if not sentence.rstrip("*_)").endswith("?")
        for _ in WHAT.findall(sentence)
    ]


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    paths = [path for path in paths if path.suffix in KINDS and path != Path(__file__).resolve()]
    words, found, failed = 0, 0, False
    for path in paths:
        name = path.relative_to(ROOT)
        text = prose(path)
        words += len(re.findall(r"[^\W\d_]+", text))
        found += len(nouns(text))
        if "--list" in sys.argv:
            sys.stdout.writelines(f"{name}: {sentence}\n" for sentence in nouns(text))
        for term, instead in RETIRED.items():
            if re.search(rf"\b{term}\b", path.read_text()):
                print(f"{name}: {term} is called {instead} now")
                failed = True
    each = 1000 * found / words
    print(f'"what" as a noun: {each:.2f} per 1000 words ({found} in {words}); at most {MOST}')
    return int(failed or each > MOST)


if __name__ == "__main__":
    sys.exit(main())
