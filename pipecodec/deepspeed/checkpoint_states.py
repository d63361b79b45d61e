"""The state dict of this rank's optimizer, made of a checkpoint that was cut differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..errors import bug
from .checkpoint_layout import Layout
from .checkpoint_source import Slot, Source

__all__ = ["load_states", "needed_states", "schedule_state", "states_of"]

Names = Mapping[torch.Tensor, str]
"""The model's name of each parameter; the wrapper's own has none."""

_BY_GROUP = ("lrs", "momentums", "_last_lr", "lr_lambdas")
"""Suffixes of the entries in a schedule's state that have a value for each group."""


def needed_states(layout: Layout, names: Names, source: Source) -> list[str]:
    """Return the names of the files that ``states_of`` reads."""
    found = [source.header_name("0"), *source.state_files("0")]
    for slot, begin, end in _held(layout, names, source):
        files = source.state_files(slot.rank)
        parts = source.partitions(slot, begin, end - begin) if layout.starts else []
        found += [source.header_name(slot.rank), *(files[part] for part in {0, *parts})]
    return found


def states_of(layout: Layout, names: Names, source: Source) -> dict[str, Any]:
    """Return the state dict that the engine's optimizer loads.

    Raises ``ValueError`` if separate states cannot become one flat group or one group of settings.
    """
    slots = [[source.slots.get(names.get(p, "")) for p in group] for group in layout.groups]
    settings = [
        _settings(source, names, group, own)
        for group, own in zip(layout.groups, slots, strict=True)
    ]
    inner: dict[str, Any] = {"state": {}, "param_groups": []}
    masters: list[Any] = []
    number = 0
    for index, (group, own) in enumerate(zip(layout.groups, slots, strict=True)):
        numbers = []
        if layout.starts is not None:
            state, master = _flat(layout, index, own, source)
            masters.append(master)
            inner["state"].update({number: state} if state else {})
            numbers.append(number)
            number += 1
        else:
            masters.append([])
            for parameter, slot in zip(group, own, strict=True):
                if slot is not None:
                    state = {
                        k: _copied(k, v, names[parameter]) for k, v in source.state(slot).items()
                    }
                    inner["state"].update({number: state} if state else {})
                if layout.kind:
                    master = parameter.float() if slot is None else source.master(slot)
                    masters[-1].append(master.detach())
                numbers.append(number)
                number += 1
        inner["param_groups"].append({**settings[index], "params": numbers})
    return {
        "inner": inner,
        "masters": masters,
        "wrapped": source.wrapped("0") if layout.kind else {},
    }


def load_states(optimizer: Any, layout: Layout, states: Mapping[str, Any]) -> None:
    """Hand a state dict of ``states_of`` to the engine's optimizer."""
    inner, masters, wrapped = states["inner"], states["masters"], states["wrapped"]
    if not layout.kind:
        optimizer.load_state_dict(inner)
    elif layout.kind == "FP16_UnfusedOptimizer":
        optimizer.load_state_dict(
            {**wrapped, "optimizer_state_dict": inner, "fp32_groups": masters}
        )
    elif layout.kind == "FP16_Optimizer":
        optimizer.load_state_dict(
            {**wrapped, "optimizer_state_dict": inner, "fp32_groups_flat": masters}
        )
    else:
        everyone: list[Any] = [None] * layout.partitions
        everyone[layout.partition] = {
            **wrapped,
            "base_optimizer_state": inner,
            "single_partition_of_fp32_groups": masters,
            "group_paddings": [0] * len(masters),
            "param_alignment_paddings": getattr(optimizer, "round_robin_bit16_padding", None),
        }
        optimizer.load_state_dict(everyone, load_from_fp32_weights=True)


def schedule_state(layout: Layout, names: Names, source: Source) -> Any:
    """Return the state of the LR schedule for this rank's groups."""
    slots = [
        next((s for p in group if (s := source.slots.get(names.get(p, "")))), None)
        for group in layout.groups
    ]
    every = [slot or Slot("0", 0, 0, 0) for slot in slots]
    saved = {slot.rank: source.header(slot.rank)["lr_scheduler"] for slot in every}
    saved.setdefault("0", source.header()["lr_scheduler"])
    counts = {rank: len(source.inner(rank)["param_groups"]) for rank in saved}
    return _scheduled(saved, every, counts)


def _scheduled(
    saved: Mapping[str, Any], slots: Sequence[Slot], counts: Mapping[str, int]
) -> dict[str, Any]:
    found = {}
    for key, value in saved["0"].items():
        theirs = {rank: state[key] for rank, state in saved.items()}
        lists = all(isinstance(v, list) for v in theirs.values())
        if (
            lists
            and key.endswith(_BY_GROUP)
            and all(len(v) == counts[r] for r, v in theirs.items())
        ):
            found[key] = [theirs[slot.rank][slot.group] for slot in slots]
        elif lists and value and all(isinstance(v, dict) for v in value):
            found[key] = [
                _scheduled({r: v[i] for r, v in theirs.items()}, slots, counts)
                for i in range(len(value))
            ]
        elif all(_equal(value, other) for other in theirs.values()):
            found[key] = value
        else:
            raise ValueError(f"the LR schedule's {key} differs between the stages that were saved")
    return found


def _held(layout: Layout, names: Names, source: Source) -> Iterator[tuple[Slot, int, int]]:
    """Yield the saved place of each parameter of this rank, and which elements of it are here."""
    for index, group in enumerate(layout.groups):
        for number, parameter in enumerate(group):
            slot = source.slots.get(names.get(parameter, ""))
            begin, end = _here(layout, index, number, parameter.numel())
            if slot is not None and (begin < end or layout.starts is None):
                yield slot, begin, end


def _here(layout: Layout, group: int, number: int, count: int) -> tuple[int, int]:
    """Return the first element of a parameter that this rank's partition has, and their end."""
    if layout.starts is None or layout.sizes is None:
        return 0, count
    size, start = layout.sizes[group], layout.starts[group][number]
    first = layout.partition * size
    return max(0, first - start), min(count, first + size - start)


def _flat(
    layout: Layout, index: int, slots: Sequence[Slot | None], source: Source
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the state and the fp32 weights of this rank's partition of a flat group."""
    if layout.starts is None or layout.sizes is None:
        raise bug("a flat group in a layout that has none")
    size = layout.sizes[index]
    own = [(slot, number) for number, slot in enumerate(slots) if slot is not None]
    state: dict[str, Any] = {}
    for position, (slot, _) in enumerate(own):
        theirs = source.flat_state(slot)
        flat = {k for k, v in theirs.items() if _is_flat(v, source.size(slot))}
        plain = {k: v for k, v in theirs.items() if k not in flat}
        if any(isinstance(v, torch.Tensor) and v.numel() != 1 for v in plain.values()):
            raise ValueError("the optimizer keeps a state of another size than the flat weights")
        made = dict.fromkeys(flat) | plain
        if position and (
            made.keys() != state.keys() or not all(_equal(made[k], state[k]) for k in plain)
        ):
            raise ValueError(
                f"parameters that were in several flat groups and are to be in one were stepped "
                f"differently: {state} and {made}"
            )
        state = made
    master = torch.zeros(size)
    tensors: dict[str | None, torch.Tensor] = {None: master}
    tensors.update({k: torch.zeros(size) for k, v in state.items() if v is None})
    for slot, number in own:
        count = layout.groups[index][number].numel()
        begin, end = _here(layout, index, number, count)
        if begin >= end:
            continue
        at = layout.starts[index][number] + begin - layout.partition * size
        for key, tensor in tensors.items():
            offset = at
            for piece in source.pieces(slot, begin, end - begin, key):
                tensor[offset : offset + piece.numel()] = piece
                offset += piece.numel()
    return {
        k: tensors[k] if v is None else _copied(k, v, "a group") for k, v in state.items()
    }, master


def _settings(
    source: Source, names: Names, group: Sequence[torch.Tensor], slots: Sequence[Slot | None]
) -> dict[str, Any]:
    own = [(names[p], slot) for p, slot in zip(group, slots, strict=True) if slot is not None]
    if not own:  # nothing but the parameter of a frozen stage's wrapper, which stays zero
        return source.settings(Slot("0", 0, 0, 0))
    first, slot = own[0]
    settings = source.settings(slot)
    for name, other in own[1:]:
        theirs = source.settings(other)
        for key in {**settings, **theirs}:
            if not _equal(settings.get(key), theirs.get(key)):
                raise ValueError(
                    f"{first} and {name} are in one parameter group, and were saved with other "
                    f"settings: {key} {settings.get(key)} and {theirs.get(key)}; group them as then"
                )
    return settings


def _is_flat(value: Any, size: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 1 and value.numel() == size


def _copied(key: str, value: Any, name: str) -> Any:
    """Return a state that is no part of a file any more."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"the optimizer keeps {key}, a {type(value).__name__}, for {name}, which may "
        f"be about other parameters as well"
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
