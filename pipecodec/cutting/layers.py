"""Finds the layers between which a model may be cut."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import PartitionError
from ..tape.batch import Batch
from ..tape.run_model import run_model
from .untouched import untouched

if TYPE_CHECKING:
    from ..tape.fake import FakeRun

__all__ = ["called_modules", "layer_lists", "names_above_split"]

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_MUCH = 0.3
"""A list that holds this share of the largest list's parameters is cut too: an encoder, say."""
_ALONE = 3
_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def called_modules(model: nn.Module, batch: Batch) -> set[str]:
    """Return the names of the modules that the model calls for a batch."""
    names = {id(module): name for name, module in model.named_modules()}
    called: set[str] = set()

    def hook(module: nn.Module, _: Any) -> None:
        if id(module) in names:
            called.add(names[id(module)])

    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        with untouched(model):
            run_model(model, lambda run: _inputs(batch, run).call(model))
    finally:
        handle.remove()
    return called


def _inputs(batch: Batch, fake: FakeRun | None) -> Batch:
    return batch.copy() if fake is None else batch.copy().map(fake.input)


def layer_lists(model: nn.Module, called: Set[str]) -> list[list[str]]:
    """Return the ways to take the model's layers, each a list of module names, best first.

    `called` are the modules that are called at all.

    First all lists of layers that hold much of the model (an encoder's and a decoder's), then one
    of them alone, then all lists, then the model's own children.
    """
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name == other or name.startswith(f"{other}.") for other in sizes if other)
        if isinstance(module, _LISTS) and not inside:
            size = sum(parameter.numel() for parameter in module.parameters())
            if size and any(other.startswith(f"{name}.") for other in called):
                sizes[name] = size
    ways = []
    if sizes:
        most = max(sizes.values())
        large = [name for name, size in sizes.items() if size >= _MUCH * most]
        ways = [[child for name in large for child in _layers(model, name, called)]]
        weight = {name: size * len(_layers(model, name, called)) for name, size in sizes.items()}
        alone = sorted(large, key=lambda name: -weight[name])[:_ALONE]
        ways += [_layers(model, name, called) for name in alone]
        ways.append([child for name in sizes for child in _layers(model, name, called)])
    ways.append(_children(model, ""))
    return [way for i, way in enumerate(ways) if way and way not in ways[:i]] or [[]]


def _layers(model: nn.Module, name: str, called: Set[str]) -> list[str]:
    """Return the children of a list of layers; for a list in it that is never called, its own."""
    layers = []
    for child in _children(model, name):
        nested = isinstance(model.get_submodule(child), _LISTS) and child not in called
        layers += _layers(model, child, called) if nested else [child]
    return layers


def _children(model: nn.Module, name: str) -> list[str]:
    return [
        f"{name}.{child}".lstrip(".") for child, _ in model.get_submodule(name).named_children()
    ]


def names_above_split(model: nn.Module, split: Sequence[str]) -> list[str]:
    """Return the modules named in `split`, without the number of a call ("layers.4#2")."""
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
    raise PartitionError(f"the model has no module {name!r}")
