"""Values that cross only to become part of the output: caches, and those that no loss needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .crossings import Leaf
from .facts import Crossing, Problem
from .gradients import loss_of
from .text import size

__all__ = ["passing_values"]

LARGE = 0.25
"""Share of a boundary's bytes from which values for the output alone are a problem."""

_CACHES = ("cache", "past_key_values", "cache_params", "mems", "state")
_DEEPEST = 6


def passing_values(
    output: Any, crossings: Sequence[Sequence[tuple[Crossing, Leaf]]]
) -> Iterator[Problem]:
    """Yield a problem for each boundary that a cache crosses, or much that no loss needs."""
    entries = dict(_entries(output))
    held = [entries[key] for key in _CACHES if key in entries]
    cached = _ways_to(_tensors(held, _DEEPEST), crossings)
    given = _ways_to(_tensors(output, _DEEPEST), crossings)
    for k, pairs in enumerate(crossings):
        total = sum(each.nbytes for each, _ in pairs if each.travels != "own batch")
        caches = [each for each, leaf in pairs if id(leaf.received) in cached or _is_cache(leaf)]
        if caches:
            nbytes = sum(each.nbytes for each in caches)
            yield Problem.warning(
                k,
                f"a cache{f' of {size(nbytes)}' if nbytes else ''} crosses to stage {k + 1}: "
                f"{_listed(caches)}",
                "set use_cache=False in the model's configuration, or keep only the loss with "
                'partition(..., outputs=["loss"])',
            )
        passing = [
            each
            for each, leaf in pairs
            if id(leaf.received) in given and each not in caches and not each.used
        ]
        nbytes = sum(each.nbytes for each in passing)
        if loss_of(output) is not None and nbytes > LARGE * total:
            yield Problem.warning(
                k,
                f"{size(nbytes)} of {size(total)} cross to stage {k + 1} for the output alone, and "
                f"no loss needs them: {_listed(passing)}",
                'keep only the loss with partition(..., outputs=["loss"]), or do not ask the '
                "model for these outputs",
            )


def _ways_to(
    tensors: Iterable[torch.Tensor], crossings: Sequence[Sequence[tuple[Crossing, Leaf]]]
) -> set[int]:
    """Return the ids of the received tensors that become one of `tensors` as they are."""
    found = set(map(id, tensors))
    for pairs in reversed(crossings):
        found |= {id(leaf.tensor) for _, leaf in pairs if id(leaf.received) in found}
    return found


def _entries(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif not isinstance(output, torch.Tensor) and hasattr(output, "__dict__"):
        yield from vars(output).items()


def _is_cache(leaf: Leaf) -> bool:
    return leaf.travels == "cannot" and leaf.kind.endswith("Cache")


def _tensors(value: Any, deep: int) -> Iterator[torch.Tensor]:
    """Yield the tensors in containers and in attributes of objects."""
    if isinstance(value, torch.Tensor):
        yield value
    elif deep and isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, deep - 1)
    elif deep and isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _tensors(item, deep - 1)
    elif deep and hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        yield from _tensors(vars(value), deep - 1)


def _listed(crossings: Sequence[Crossing]) -> str:
    names = list(dict.fromkeys(crossing.path for crossing in crossings))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
