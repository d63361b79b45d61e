"""Finds the layers between which a model may be cut."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..tape.errors import TapeError

__all__ = ["layer_lists", "names_above_split"]

_MUCH = 0.2
"""A list that holds this share of the parameters in lists is cut too: encoder and decoder."""


def layer_lists(model: nn.Module) -> list[list[str]]:
    """Return the ways to take the model's layers, each a list of module names, best first.

    First all lists of layers that hold much of the model (an encoder's and a decoder's), then the
    largest alone, then the model's own children.
    """
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name == other or name.startswith(f"{other}.") for other in sizes if other)
        if isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)) and not inside:
            size = sum(parameter.numel() for parameter in module.parameters())
            if size:
                sizes[name] = size
    ways = []
    if sizes:
        most = sum(sizes.values())
        large = [name for name, size in sizes.items() if size >= _MUCH * most]
        largest = max(sizes, key=lambda name: sizes[name])
        ways = [[child for name in large for child in _children(model, name)]]
        ways.append(_children(model, largest))
        if len(large) < len(sizes):
            ways.append([child for name in sizes for child in _children(model, name)])
    ways.append(_children(model, ""))
    return [way for i, way in enumerate(ways) if way and way not in ways[:i]]


def _children(model: nn.Module, name: str) -> list[str]:
    return [
        f"{name}.{child}".lstrip(".") for child, _ in model.get_submodule(name).named_children()
    ]


def names_above_split(model: nn.Module, split: Sequence[str]) -> list[str]:
    """Return the modules named in `split`, without the number of a call ("layers.4#2")."""
    if isinstance(split, str):
        raise ValueError(f"split is a list of module names; pass split=[{split!r}]")
    names = []
    for entry in split:
        name, _, nth = entry.partition("#")
        if nth and not nth.isdigit():
            raise ValueError(f"split: {entry!r} is no module name; the part after '#' is a number")
        if name not in dict(model.named_modules()):
            raise ValueError(f"split: the model has no module {name!r}; {_closest(model, name)}")
        names.append(name)
    return names


def _closest(model: nn.Module, name: str) -> str:
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        try:
            children = [child for child, _ in model.get_submodule(parent).named_children()]
        except AttributeError:
            continue
        where = f"{parent!r}" if parent else "the model"
        return f"{where} has {', '.join(children)}"
    raise TapeError(f"the model has no module {name!r}")
