"""Lists and reads a checkpoint's files, and checks that they are those that were saved."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "INDEX",
    "check_file",
    "fingerprint",
    "latest_tag",
    "load_file",
    "read_index",
    "saved_files",
    "stage_of",
    "write_whole",
]

INDEX = "pipecodec.json"
"""The file of ours in a checkpoint's folder."""

_SAVED = re.compile(r"((mp_rank_|layer_|expp_rank_)\w.*model_states|.*zero_pp_rank_.*states)\.pt")
_LAYER = re.compile(r"layer_(\d+)-")


def latest_tag(folder: Path) -> str | None:
    """Return the tag that the file ``latest`` names; None if there is no such file."""
    try:
        return (folder / "latest").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / 'latest'} cannot be read: {error}") from None


def read_index(folder: Path) -> dict[str, Any] | None:
    """Return the contents of our file in a checkpoint's folder; None if there is no such file."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(index, dict) or index.get("format") != 1:
        raise ValueError(f"{path} is damaged, or was written by a newer pipecodec")
    if "ranks" not in index:
        raise ValueError(
            f"{folder} was not saved to its end, so its files belong to several checkpoints; load "
            f"another one, or save under this tag again"
        )
    return index


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen in part."""
    beside = path.with_name(f"{path.name}.saving")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def saved_files(folder: Path) -> list[str]:
    """Return the names of the files that DeepSpeed's loader could take."""
    return sorted(name for name in os.listdir(folder) if _SAVED.fullmatch(name))


def stage_of(name: str) -> int | None:
    """Return the number of the stage whose weights a file holds; None for other files."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def fingerprint(path: Path) -> list[int]:
    """Return the size of a file in bytes, and a checksum of the checksums that it holds itself.

    Nothing but the file's directory is read. In an old format of torch's, without one, the checksum
    is 0.
    """
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return [size, 0]
    with zipfile.ZipFile(path) as archive:
        held = [(entry.file_size, entry.CRC) for entry in archive.infolist()]
    return [size, zlib.crc32(repr(held).encode())]


def check_file(path: Path, saved: Iterable[int] | None, *, checksums: bool) -> str | None:
    """Read a file through and return its defect; None if it has none.

    ``saved`` is the fingerprint that it had when it was saved, None if that is not known;
    ``checksums`` says that those inside the file are good.
    """
    if not path.exists():
        return f"{path} is missing"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip() if checksums else None
            if broken is not None:
                return f"{path} is damaged: the checksum of {broken} does not fit"
        load_file(path)
        if saved is not None and fingerprint(path) != list(saved):
            return (
                f"{path} is not the file that was saved with this checkpoint; it may be of another "
                f"one, or of another node"
            )
    except ValueError as error:
        return str(error)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        return f"{path} is damaged: {type(error).__name__}: {error}"
    return None


def load_file(path: Path) -> Any:
    """Return the content of a file of DeepSpeed's, tensors on the CPU and read where they are used.

    Like DeepSpeed's own loader it unpickles, so it runs the code that the file names. Raises
    ``ValueError`` with the file's name.
    """
    mapped = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=False)
    except MemoryError:
        raise
    except Exception as error:  # bytes can make unpickling raise anything
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"{path} is damaged: {said}") from error
