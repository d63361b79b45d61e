"""Finds the checkpoint to load, and checks that all ranks see the same one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import instance
from ..engine.agree import agree
from ..engine.everywhere import everywhere, together
from ..engine.together import raise_on_all_ranks
from ..errors import bug
from .checkpoint_files import INDEX, check_file, latest_tag, read_index, saved_files

__all__ = ["Checkpoint", "find"]

_NAME = "load_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint ``tag`` in the folder ``root``, and the contents of our file in it.

    ``index`` is None if there is no such file: DeepSpeed alone saved it.
    """

    root: Path
    tag: str
    index: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        """The folder with the files."""
        return self.root / self.tag

    def problems(self, names: Iterable[str]) -> list[str]:
        """Read these files through, and return their defects."""
        index = self.index or {}
        saved, checksums = index.get("files", {}), bool(index.get("checksums"))
        found = [
            problem
            for name in dict.fromkeys(names)
            if (problem := check_file(self.folder / name, saved.get(name), checksums=checksums))
        ]
        if saved and (others := [name for name in saved_files(self.folder) if name not in saved]):
            found.append(f"{self.folder} has files of another checkpoint: {', '.join(others[:3])}")
        return found


def _root(load_dir: Any) -> Path:
    instance("folder", load_dir, (str, os.PathLike), "the save_dir of engine.save_checkpoint")
    return Path(load_dir)


def find(load_dir: Any, tag: Any) -> Checkpoint | None:
    """Find a checkpoint on all ranks; None if ``tag`` is None and no rank has a file ``latest``.

    A collective call. Raises ``ValueError``, the same on every rank, if a rank does not see it, or
    if ranks see different ones.
    """
    root = together(_NAME, lambda: _root(load_dir))
    names = everywhere(_NAME, lambda: latest_tag(root) if tag is None else str(tag))
    if tag is None and not any(names):
        return None
    own = latest_tag(root) if tag is None else str(tag)
    raise_on_all_ranks(_unseen(root, own))
    if own is None:
        raise bug("no tag, where some rank has one")
    index = together(_NAME, lambda: read_index(root / own))
    agree(lambda: {"the tag of the checkpoint": own, f"{INDEX} of {own}": _digest(root / own)})
    return Checkpoint(root, own, index)


def _unseen(root: Path, tag: str | None) -> str | None:
    if not root.is_dir():
        return f"there is no folder {root} on this rank; all ranks need the checkpoint's files"
    if tag is None:
        return f"{root} has no file 'latest' on this rank, though it has one on others"
    if not tag or not (root / tag).is_dir():
        seen = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        there = f"there are {', '.join(seen[:9])}" if seen else "there is none"
        return f"there is no checkpoint {tag!r} in {root}; {there}"
    return None


def _digest(folder: Path) -> str:
    path = folder / INDEX
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else "not there"
