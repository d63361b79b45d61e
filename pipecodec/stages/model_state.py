"""Converts between the state dict of a model and those of its stages."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arguments import instance, items
from ..no_memory import without_memory
from .ties import memory_of

__all__ = ["ModelState", "Place", "copied_from", "locate"]

Place = tuple[str, int]
"""A key of a stage's state dict, and the stage's id."""

_EXTRA = "_extra_state"


@dataclass(frozen=True)
class ModelState:
    """Where the entries of a model's state dict are in its stages.

    ``places`` has every key of the model's state dict, in its order, with the places of that
    tensor, by stage. Keys of one tensor, such as those of tied weights, have the same places; a key
    without places is of something that no stage holds.
    """

    places: Mapping[str, Sequence[Place]]
    stages: int

    def check(self, paths: Sequence[Collection[str]]) -> None:
        """Raise ValueError unless the stages' state dicts, with these keys, make up the model's."""
        self._check_count(paths)
        known = self._keys_by_place()
        for key, places in self.places.items():
            if not places:
                raise ValueError(
                    f"no stage holds {key!r} of the model; with strict=False it is left out"
                )
            for path, stage in places:
                if path not in paths[stage]:
                    raise ValueError(
                        f"stage {stage} has no {path!r}, which is the model's {key!r}: its modules "
                        f"were changed after it was partitioned, or the state dict is another's"
                    )
        for stage, own in enumerate(paths):
            for path in own:
                if (path, stage) not in known:
                    raise ValueError(
                        f"the model has no place for {path!r} of stage {stage}; make it a "
                        f"parameter or buffer of the model, or a buffer that is not persistent; "
                        f"with strict=False it is left out"
                    )

    def to_model(
        self, states: Sequence[Mapping[str, Any]], *, strict: bool = True
    ) -> dict[str, Any]:
        """Return the model's state dict of those of its stages, without copying a tensor."""
        states = items("stage_state_dicts", states, "a list with the state dict of each stage")
        for k, state in enumerate(states):
            instance(f"stage_state_dicts[{k}]", state, Mapping, "a state dict")
        self._check_count(states)
        if strict:
            self.check(states)
            for key, places in self.places.items():
                _check_equal(key, {place: states[place[1]][place[0]] for place in places})
        found: dict[str, Any] = {}
        for key, places in self.places.items():
            for path, stage in places:
                if path in states[stage]:
                    found[key] = states[stage][path]
                    break
        return found

    def from_model(
        self,
        state_dict: Mapping[str, Any],
        *,
        strict: bool = True,
        stages: Collection[int] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the stages' state dicts of the model's, without copying a tensor.

        Only ``stages``, None: all of them, have to be complete; the others are left empty.
        """
        instance("state_dict", state_dict, Mapping, "a state dict")
        if strict and (unknown := [key for key in state_dict if key not in self.places]):
            raise ValueError(
                f"the model that was partitioned has no {unknown}; with strict=False they are "
                f"left out"
            )
        states: list[dict[str, Any]] = [{} for _ in range(self.stages)]
        for (path, stage), keys in self._keys_by_place().items():
            if stages is not None and stage not in stages:
                continue
            given = {key: state_dict[key] for key in keys if key in state_dict}
            if strict and not given:
                raise ValueError(
                    f"the state dict has no {' or '.join(map(repr, keys))}, which is {path!r} of "
                    f"stage {stage}; with strict=False the stage's state dict lacks it too"
                )
            if strict:
                _check_equal(path, given)
            if given:
                states[stage][path] = next(iter(given.values()))
        return states

    def _check_count(self, states: Sequence[Any]) -> None:
        if len(states) != self.stages:
            raise ValueError(f"there are {len(states)} state dicts for {self.stages} stages")

    def _keys_by_place(self) -> dict[Place, list[str]]:
        keys: dict[Place, list[str]] = {}
        for key, places in self.places.items():
            for place in places:
                keys.setdefault(place, []).append(key)
        return keys


def locate(stages: Sequence[nn.Module], model: nn.Module) -> ModelState:
    """Find where the stages hold the entries of the model's state dict.

    By identity: the same memory, or for a module's extra state the same module. In a stage of which
    nothing is the model's own, by name: see ``copied_from``.
    """
    wanted = _entries(model)
    originals = {key: identity for key, (identity, _) in wanted.items()}
    places: dict[Hashable, list[Place]] = {identity: [] for identity in originals.values()}
    for stage_id, stage in enumerate(stages):
        copied = copied_from(stage, model)
        for path, (identity, _) in _entries(stage).items():
            found = originals[path] if copied else identity
            if found in places:
                places[found].append((path, stage_id))
    return ModelState({key: places[found] for key, found in originals.items()}, len(stages))


def copied_from(stage: nn.Module, model: nn.Module) -> bool:
    """Tell whether a stage is a copy of a part of the model, as ``copy.deepcopy`` makes it.

    Nothing in its state dict is the model's own, and all of it has a name, shape, dtype and value
    that the model has too.
    """
    own, theirs = _entries(stage), _entries(model)
    identities = {identity for identity, _ in theirs.values()}
    return bool(own) and all(
        identity not in identities and path in theirs and _equal(value, theirs[path][1])
        for path, (identity, value) in own.items()
    )


def _entries(module: nn.Module) -> dict[str, tuple[Hashable, Any]]:
    """Return the entries of a module's state dict, each with a key of its identity."""
    entries: dict[str, tuple[Hashable, Any]] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        owner, _, name = key.rpartition(".")
        if isinstance(value, torch.Tensor) and name != _EXTRA:
            entries[key] = memory_of(value), value
        else:
            entries[key] = (_EXTRA, id(module.get_submodule(owner))), value
    return entries


def _check_equal(what: str, values: Mapping[Any, Any]) -> None:
    (first, value), *others = values.items()
    for other, another in others:
        if not _equal(value, another):
            raise ValueError(
                f"{what!r} is one tensor, but {_said(first)} and {_said(other)} differ; "
                f"with strict=False the first is taken"
            )


def _said(where: str | Place) -> str:
    return repr(where) if isinstance(where, str) else f"{where[0]!r} of stage {where[1]}"


def _equal(one: Any, other: Any) -> bool:
    """Compare to the last bit; of values that are no tensors the types; none without memory."""
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return type(one) is type(other)
    if one is other:
        return True
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if without_memory(one) or without_memory(other):
        return False
    return torch.equal(_bits(one), _bits(other).to(one.device))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own.detach().contiguous().reshape(-1).view(torch.uint8)
