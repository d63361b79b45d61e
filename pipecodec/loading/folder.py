"""Reads single tensors of a folder that ``save_pretrained`` wrote."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

__all__ = ["Folder"]

_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"


class Folder:
    """The tensors of a folder, by key; a file is opened when a tensor of it is asked for.

    Knows ``model.safetensors``, ``pytorch_model.bin`` and the shards that an index of these lists,
    in this order. ``problems`` lists all that is wrong with the files. Close it, or use it in a
    ``with`` statement.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.problems: list[str] = []
        self.files: dict[str, Path] = {}
        self._stack = contextlib.ExitStack()
        self._open: dict[Path, Any] = {}
        self._keys: dict[Path, set[str]] = {}
        self._find()

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.clear()
        self._stack.close()

    def config(self) -> dict[str, Any]:
        """Return the contents of config.json, {} if there is none."""
        path = self.path / "config.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def shape(self, key: str) -> torch.Size:
        """Return a tensor's shape without reading it."""
        file = self._file(self.files[key])
        if isinstance(file, dict):
            return torch.Size(file[key].shape)
        return torch.Size(file.get_slice(key).get_shape())

    def read(self, key: str) -> torch.Tensor:
        """Read one tensor into memory of its own."""
        file = self._file(self.files[key])
        value: torch.Tensor = file[key].clone() if isinstance(file, dict) else file.get_tensor(key)
        return value

    def lacks(self, key: str) -> str | None:
        """Return why a tensor that the index lists cannot be read, if so."""
        path = self.files[key]
        try:
            if path not in self._keys:
                self._keys[path] = set(self._file(path).keys())
        except Exception as error:
            return f"{path.name} cannot be read: {type(error).__name__}: {error}"
        if key in self._keys[path]:
            return None
        return f"{path.name} lacks {key!r}, which the index says it has; save the model anew"

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = self._opened(path)
        return self._open[path]

    def _opened(self, path: Path) -> Any:
        if path.suffix == ".safetensors":
            return self._stack.enter_context(_safe_open(path))
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def _find(self) -> None:
        if not self.path.is_dir():
            self.problems.append(f"there is no folder {self.path}; pass one that has the weights")
            return
        for name in (_SAFETENSORS, _PICKLED):
            whole, index = self.path / name, self.path / (name + _INDEX)
            if whole.is_file() and index.is_file():
                self.problems.append(
                    f"{self.path} has both {whole.name} and {index.name}; remove the one that is "
                    f"left from an earlier save"
                )
                return
            if whole.is_file():
                self.files = self._keys_of(whole)
                return
            if index.is_file():
                self.files = self._listed(index, name)
                return
        found = sorted(entry.name for entry in self.path.iterdir())
        self.problems.append(
            f"{self.path} has no weights: neither {_SAFETENSORS} nor {_PICKLED}, nor an index "
            f"({_SAFETENSORS}{_INDEX}); it has {', '.join(found[:9]) or 'nothing'}"
        )

    def _keys_of(self, path: Path) -> dict[str, Path]:
        try:
            return dict.fromkeys(self._file(path).keys(), path)
        except Exception as error:
            self.problems.append(f"{path} cannot be read: {type(error).__name__}: {error}")
            return {}

    def _listed(self, index: Path, name: str) -> dict[str, Path]:
        try:
            weights: dict[str, str] = json.loads(index.read_text())["weight_map"]
            files = {key: self.path / file for key, file in weights.items()}
        except Exception as error:
            self.problems.append(
                f"{index} is no index: {type(error).__name__}: {error}; save the model anew"
            )
            return {}
        listed = {path.name for path in files.values()}
        for missing in sorted(file for file in listed if not (self.path / file).is_file()):
            self.problems.append(f"{missing}, which {index.name} lists, is not in {self.path}")
        stem, suffix = name.rsplit(".", 1)
        for path in sorted(self.path.glob(f"{stem}-*-of-*.{suffix}")):
            if path.name not in listed:
                self.problems.append(
                    f"{path.name} is in {self.path}, but {index.name} does not list it; remove it "
                    f"if it is left from an earlier save"
                )
        return files


@contextlib.contextmanager
def _safe_open(path: Path) -> Iterator[Any]:
    """Open without mapping the file, whose pages would count as this process's memory."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(f"{path.name} needs safetensors: pip install safetensors") from error
    try:
        opened = safe_open(path, framework="pt", backend="pread")
    except TypeError:  # before safetensors 0.8
        opened = safe_open(path, framework="pt")
    with opened as file:
        yield file
