"""Finds the parameters of several stages that are one weight."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

__all__ = ["find_ties", "memory_of"]

_Window = tuple[int, int, tuple[torch.dtype, torch.Size, tuple[int, ...]]]


def find_ties(stages: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, list[tuple[str, int]]]:
    """Find the parameters that share memory across stages, each of which is given by path.

    Copies are the same object or have the same dtype, shape and strides at the same place of one
    storage. Of several names within a stage the first is kept. Returns, by a name, the (path,
    stage id) pairs that are one weight. Raises ValueError for parameters of several stages that
    overlap in any other way.
    """
    storages: dict[int, dict[_Window, dict[int, str]]] = {}
    for stage_id, parameters in enumerate(stages):
        for path, parameter in parameters.items():
            places = storages.setdefault(_storage(parameter), {}).setdefault(_window(parameter), {})
            places.setdefault(stage_id, path)
    tied = {}
    for windows in storages.values():
        _refuse_overlap(windows)
        for places in windows.values():
            if len(places) > 1:
                stage_id, path = next(iter(places.items()))
                tied[f"submod_{stage_id}.{path}"] = [(p, k) for k, p in places.items()]
    return tied


def memory_of(tensor: torch.Tensor) -> Hashable:
    """Return a key that is equal for two tensors that are one, while both are alive."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return _storage(tensor), _window(tensor)


def _storage(tensor: torch.Tensor) -> int:
    storage: int = tensor.untyped_storage()._cdata  # unlike data_ptr() also set on meta
    return storage


def _window(tensor: torch.Tensor) -> _Window:
    """Return a view's first byte, end, and dtype, shape and strides."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((int(n) - 1) * int(step) for n, step in steps) if tensor.numel() else -1
    end = start + (last + 1) * tensor.element_size()
    return start, end, (tensor.dtype, tensor.shape, tensor.stride())


def _refuse_overlap(windows: dict[_Window, dict[int, str]]) -> None:
    reach, owners = 0, dict[int, str]()
    for (start, end, _), places in sorted(windows.items(), key=lambda item: item[0][:2]):
        if start < min(reach, end) and not (len(places) == 1 and set(places) == set(owners)):
            raise ValueError(
                f"parameters {owners} and {places} (stage: path) share memory without being the "
                f"same tensor, such as a weight and its transpose, so they cannot be tied across "
                f"stages; use one parameter in both"
            )
        if end > reach:
            reach, owners = end, places
