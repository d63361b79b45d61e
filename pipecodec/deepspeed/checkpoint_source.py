"""A checkpoint by the model's names: each weight, and the state that an optimizer keeps for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import bug
from .checkpoint_files import load_file, stage_of
from .checkpoint_find import Checkpoint
from .checkpoint_layout import spans

__all__ = ["Slot", "Source"]


@dataclass(frozen=True)
class Slot:
    """A parameter's place in a saved optimizer: its rank in the pipeline, group, number, start."""

    rank: str
    group: int
    number: int
    start: int


class Source:
    """The content of a checkpoint's files, which are read where they are used."""

    def __init__(self, found: Checkpoint) -> None:
        if found.index is None:
            raise bug("a checkpoint without an index")
        self._found, self._files = found, dict[str, Any]()
        self.index: Mapping[str, Any] = found.index
        self.ranks: Mapping[str, Any] = found.index["ranks"]
        self.kind: str = self.ranks["0"]["optimizer"]["kind"]
        self._entries = {
            (path, int(stage)): described
            for own in self.ranks.values()
            for stage, entries in own["stages"].items()
            for path, described in entries.items()
        }
        keys: dict[tuple[str, int], list[str]] = {}
        for key, places in self.index["model"].items():
            for path, stage in places:
                keys.setdefault((path, stage), []).append(key)
        self.nameless = [place for place in self._entries if place not in keys]
        self.slots = {
            key: Slot(rank, group, number, start)
            for rank, own in self.ranks.items()
            for group, parameters in enumerate(own["optimizer"]["groups"])
            for number, (path, stage, start, _) in enumerate(parameters)
            for key in keys.get((path, stage), ())
        }

    def place(self, key: str) -> tuple[str, int] | None:
        """Return the path and stage under which an entry of the model was saved, if it was."""
        for path, stage in self.index["model"][key]:
            if (path, stage) in self._entries:
                return path, stage
        return None

    def described(self, key: str) -> Any:
        """Return the dtype and shape of an entry of the model."""
        place = self.place(key)
        return None if place is None else self._entries[place]

    def layer(self, key: str) -> str:
        """Return the name of the file that has an entry of the model."""
        place = self.place(key)
        if place is None:
            raise bug(f"no place for {key!r}, which was looked for before")
        names: Iterable[str] = self.index["files"]
        return next(name for name in names if stage_of(name) == place[1])

    def entry(self, key: str) -> Any:
        """Return an entry of the model."""
        place = self.place(key)
        if place is None:
            raise bug(f"no place for {key!r}, which was looked for before")
        return self.file(self.layer(key))[f"mod.{place[0]}"]

    def header(self, rank: str = "0") -> Any:
        """Return the file that holds all that belongs to no single parameter."""
        return self.file(self.header_name(rank))

    def header_name(self, rank: str = "0") -> str:
        """Return the name of that file."""
        return f"mp_rank_{int(rank):02d}_model_states.pt"

    def state_files(self, rank: str) -> list[str]:
        """Return the names of the files with the optimizer's state of a rank in the pipeline."""
        names: list[str] = self.ranks[rank]["optimizer"]["files"]
        return names

    def file(self, name: str) -> Any:
        """Return the content of a file."""
        if name not in self._files:
            self._files[name] = load_file(self._found.folder / name)
        return self._files[name]

    def wrapped(self, rank: str, partition: int = 0) -> Any:
        """Return the state dict of DeepSpeed's optimizer of a rank, or the user's own."""
        file = self.file(self.state_files(rank)[partition])
        flat = self.kind in ("BF16_Optimizer", "DeepSpeedZeroOptimizer")
        return file["optimizer_state_dict" if flat else "optimizer"]

    def inner(self, rank: str, partition: int = 0) -> Any:
        """Return the state dict of the user's optimizer."""
        wrapped = self.wrapped(rank, partition)
        if not self.kind:
            return wrapped
        name = "optimizer_state_dict" if "FP16" in self.kind else "base_optimizer_state"
        return wrapped[name]

    def settings(self, slot: Slot) -> dict[str, Any]:
        """Return the settings of a parameter's group."""
        group = self.inner(slot.rank)["param_groups"][slot.group]
        return {key: v for key, v in group.items() if key not in ("params", "param_names")}

    def state(self, slot: Slot) -> dict[str, Any]:
        """Return a parameter's state, of an optimizer that keeps one for each."""
        inner = self.inner(slot.rank)
        identity = inner["param_groups"][slot.group]["params"][slot.number]
        return dict(inner["state"].get(identity, {}))

    def flat_state(self, slot: Slot, partition: int = 0) -> dict[str, Any]:
        """Return the state of a parameter's group, of an optimizer that keeps it flat."""
        inner = self.inner(slot.rank, partition)
        identity = inner["param_groups"][slot.group]["params"][0]
        return dict(inner["state"].get(identity, {}))

    def master(self, slot: Slot) -> torch.Tensor:
        """Return a parameter's weight in fp32, of an optimizer that keeps one for each."""
        weight: torch.Tensor = self.wrapped(slot.rank)["fp32_groups"][slot.group][slot.number]
        return weight

    def size(self, slot: Slot) -> int:
        """Return the number of elements in a partition of a parameter's flat group."""
        size: int = self.ranks[slot.rank]["optimizer"]["sizes"][slot.group]
        return size

    def pieces(self, slot: Slot, begin: int, count: int, key: str | None) -> Iterable[torch.Tensor]:
        """Yield ``count`` elements of a flat parameter from ``begin``, of a state or the weight."""
        for span in spans(slot.start + begin, count, self.size(slot)):
            if key is None:
                wrapped = self.wrapped(slot.rank, span.partition)
                flat = wrapped.get(
                    "single_partition_of_fp32_groups", wrapped.get("fp32_groups_flat")
                )
                tensor = flat[slot.group].detach()
            else:
                tensor = self.flat_state(slot, span.partition)[key]
            yield tensor[span.start : span.start + span.count]

    def partitions(self, slot: Slot, begin: int, count: int) -> list[int]:
        """Return the partitions that these elements of a flat parameter lie in."""
        return [span.partition for span in spans(slot.start + begin, count, self.size(slot))]
