"""Guards the constants of an exported stage: the sizes of its arguments, train or eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

__all__ = ["guard_constants"]

Sizes = tuple[int | None, ...]
"""A tensor's sizes; None where any size fits."""


def guard_constants(stage: fx.GraphModule) -> None:
    """Have the stage's forward raise ValueError where its constants do not hold.

    These are the sizes that torch.export noted for the arguments, but for dynamic ones, and the
    mode in which dropout, batch norm and the like were exported; the stage is put into that mode.
    A stage that was not exported has no such constants.
    """
    sizes = {
        str(node.target): tuple(n if isinstance(n, int) else None for n in value.shape)
        for node in stage.graph.nodes
        if node.op == "placeholder" and isinstance(value := node.meta.get("val"), torch.Tensor)
    }
    names = [str(node.target) for node in stage.graph.nodes if node.op == "placeholder"]
    modes = {training: name for name, training in _modes(stage)}
    training = True in modes if modes else None
    if training is not None:
        stage.training = training
    if modes or sizes:
        guard = _Guard(names, sizes, training, modes.get(training or False, ""))
        stage.register_forward_pre_hook(guard, with_kwargs=True)


class _Guard:
    """A hook before a stage's forward; a class, so that a stage can be pickled."""

    def __init__(
        self, names: list[str], sizes: Mapping[str, Sizes], training: bool | None, moded: str
    ) -> None:
        self.names = names
        self.sizes = sizes
        self.training = training
        self.moded = moded

    def __call__(self, stage: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.training is not None and stage.training != self.training:
            exported, now = ("training", "eval") if self.training else ("eval", "training")
            raise ValueError(
                f"the stage was exported in {exported} mode, which {self.moded} holds as a "
                f"constant, and is in {now} mode; export the model in {now} mode and partition "
                f"that graph, or partition the model itself"
            )
        values = dict(zip(self.names, args, strict=False)) | kwargs
        for name, sizes in self.sizes.items():
            value = values.get(name)
            if isinstance(value, torch.Tensor) and not _fits(value.shape, sizes):
                raise ValueError(
                    f"{name!r} has the shape {list(value.shape)}, but the stage was exported for "
                    f"{['any' if n is None else n for n in sizes]}; export the model with "
                    f"dynamic_shapes=, or partition the model itself"
                )


def _fits(shape: torch.Size, sizes: Sizes) -> bool:
    return len(shape) == len(sizes) and all(
        size is None or n == size for n, size in zip(shape, sizes, strict=True)
    )


def _modes(stage: nn.Module) -> Iterator[tuple[str, bool]]:
    """Yield the operations that depend on the mode, and the mode that each holds."""
    for module in stage.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if isinstance(graph, fx.Graph) else ():
            if isinstance(node.target, torch._ops.OpOverload):
                names = [argument.name for argument in node.target._schema.arguments]
                given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
                mode = given.get("train", given.get("training"))
                if isinstance(mode, bool) and given.get("p") != 0:
                    yield str(node.target), mode
