"""A batch as a model's forward takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import PartitionError
from .structure import copied

__all__ = ["Batch"]


class Batch(NamedTuple):
    """The inputs of one forward, by name."""

    positional: dict[str, Any]
    named: dict[str, Any]

    @staticmethod
    def of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Batch:
        """Return a batch for `model`; the items of a ``*args`` are named args_0, args_1, ...

        Raises PartitionError if the arguments do not fit the model's forward.
        """
        signature = inspect.signature(model.forward)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PartitionError(
                f"the batch does not fit {type(model).__name__}.forward: {error}; pass its inputs "
                f"as args= and kwargs="
            ) from error
        kinds = {name: signature.parameters[name].kind for name in bound.arguments}
        variadic = inspect.Parameter.VAR_POSITIONAL in kinds.values()
        batch = Batch({}, {})
        for name, value in bound.arguments.items():
            kind = kinds[name]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                batch.positional.update({f"{name}_{i}": item for i, item in enumerate(value)})
            elif kind is inspect.Parameter.VAR_KEYWORD:
                batch.named.update(value)
            elif kind is inspect.Parameter.POSITIONAL_ONLY or (
                variadic and kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            ):
                batch.positional[name] = value
            else:
                batch.named[name] = value
        return batch

    @property
    def inputs(self) -> dict[str, Any]:
        """All inputs by name, in the order of the model's signature."""
        return {**self.positional, **self.named}

    def call(self, model: nn.Module) -> Any:
        """Return the model's output for this batch."""
        return model(*self.positional.values(), **self.named)

    def copy(self) -> Batch:
        """Return a batch with tensors and containers of its own, which a model may write into."""
        return Batch(
            {name: copied(value, {}) for name, value in self.positional.items()},
            {name: copied(value, {}) for name, value in self.named.items()},
        )

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return a batch with `function` of each tensor in its place."""
        return Batch(
            pytree.tree_map_only(torch.Tensor, function, self.positional),
            pytree.tree_map_only(torch.Tensor, function, self.named),
        )

    def with_input(self, name: str, value: Any) -> Batch:
        """Return a batch with another value for one input."""
        if name in self.positional:
            return Batch({**self.positional, name: value}, self.named)
        return Batch(self.positional, {**self.named, name: value})
