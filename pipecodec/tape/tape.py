"""A recorded forward: its steps, its values, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .ambient import Ambient
from .arguments import Argument, Node, keys_of
from .structure import take

__all__ = [
    "Fact",
    "Forward",
    "Method",
    "Out",
    "Step",
    "Tape",
    "memory_of",
    "sizes_at",
    "step_of",
    "version_of",
]


class Fact(NamedTuple):
    """A tensor as it was observed; ``memory`` tells which tensors share their memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int
    requires_grad: bool
    memory: int


class Forward(str):
    """The name of a module whose ``forward`` is called by name, without its hooks."""


class Method(str):
    """The name of a method that is called as a whole, as a module is."""


class Out(NamedTuple):
    """A value that a step gives.

    ``where`` is "result", "args" (the step put it into an argument), "attributes" (it left it on a
    module; ``path`` is (module, attribute)), or (submodule, n): the n-th output of a submodule.
    """

    where: Any
    path: tuple[Any, ...]
    key: int


@dataclass(eq=False)
class Step:
    """A call of a module, or of a function, that glue code made."""

    target: Any
    args: Node = field(default_factory=lambda: Node(tuple, []))
    outs: list[Out] = field(default_factory=list)
    expect: tuple[Any] | None = None
    """The result, if Python went on with it: at replay it has to be equal."""
    lengths: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """The numbers of items in the lists, tuples and dicts of the result, by path."""
    ambient: Ambient | None = None
    writes: tuple[int, ...] = ()
    """The values that the step writes into."""
    writes_gradient: bool = False
    """Whether a tensor that the step writes into requires a gradient afterwards."""
    writes_held: tuple[str, ...] = ()
    """What the step writes into: the model's tensors, a module, or things that leaves keep."""
    place: str = ""
    needs: tuple[str, ...] = ()
    """The modules and tensors that a method uses."""
    methods: tuple[str, ...] = ()
    """The methods of glue modules from which the call came, outermost first."""
    hollow: tuple[int, ...] = ()
    """The arguments, by value, of which a module without parameters takes dtype and device only."""
    pure: bool = False
    """Whether a module without parameters computed its result from its arguments alone."""
    seconds: float = 0.0

    @property
    def is_module(self) -> bool:
        """Whether a module, or a method as a whole, is called."""
        return isinstance(self.target, str)

    @property
    def mutates(self) -> bool:
        """Whether the step writes into anything."""
        return bool(self.writes or self.writes_held)

    @property
    def label(self) -> str:
        """The name of the module or function."""
        if isinstance(self.target, str):
            return str(self.target)
        name = str(getattr(self.target, "__name__", self.target))
        if name in ("__get__", "__set__"):
            return str(getattr(self.target.__self__, "__name__", name))
        return name

    @property
    def uses(self) -> list[int]:
        """The values that the step takes, each once."""
        return list(dict.fromkeys(keys_of(self.args)))

    def guarded_lengths(self, used: Set[int]) -> dict[tuple[Any, ...], int]:
        """Return the lengths of containers of which items are used one by one."""
        paths = [out.path for out in self.outs if out.where == "result" and out.key in used]
        return {
            path: length
            for path, length in self.lengths.items()
            if any(len(p) > len(path) and p[: len(path)] == path for p in paths)
        }

    @property
    def makes(self) -> list[int]:
        """The values that the step gives."""
        return [out.key for out in self.outs]


@dataclass(eq=False)
class Tape:
    """All steps of one forward, in order."""

    training: bool | None
    """The mode in which the model was observed; None: the tape is good for both."""
    device: torch.device | None
    entry: Ambient
    steps: list[Step] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    facts: dict[int, Any] = field(default_factory=dict)
    """Value -> its ``Fact``, its number, or None."""
    makers: dict[int, str] = field(default_factory=dict)
    """Value -> the place that made it."""
    inputs: dict[str, int] = field(default_factory=dict)
    result: Argument = field(default_factory=lambda: Node(tuple, []))
    result_type: type | None = None
    result_keys: list[Any] | None = None
    """The type and keys of the result, if it is a mapping."""
    notes: list[str] = field(default_factory=list)
    keepers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The name of a tensor of the model, or of a container in an attribute -> who keeps it."""

    varied: set[int] = field(default_factory=set)
    """The numbers that had several values in the observations."""
    same_size: dict[int, tuple[int, int]] = field(default_factory=dict)
    """A size -> (input, dimension): in two observations it was that size of that input."""

    @property
    def used(self) -> set[int]:
        """The values that any step or the result takes."""
        return {*keys_of(self.result), *(key for step in self.steps for key in step.uses)}

    def memories(self, keys: Iterable[int]) -> set[int]:
        """Return the memories of those of the values that are tensors."""
        facts = (self.facts[key] for key in keys)
        return {fact.memory for fact in facts if isinstance(fact, Fact)}

    def held_in(self, key: int) -> set[int]:
        """Return the memories of an input, and of the tensors in it."""
        items = [s.outs[0].key for s in self.steps if s.target is take and key in s.uses]
        return self.memories([key, *items])

    @property
    def input_memories(self) -> set[int]:
        """The memories of the inputs, and of the tensors in them."""
        return {memory for key in self.inputs.values() for memory in self.held_in(key)}

    def new(self, value: Any, label: str, place: str) -> int:
        """Number a value."""
        key = len(self.names)
        self.names[key], self.makers[key] = label, place
        self.facts[key] = fact_of(value)
        return key


def fact_of(value: Any) -> Any:
    """Return the ``Fact`` of a tensor, a number as it is, and None for anything else."""
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, (int, float)) else None
    return Fact(
        value.dtype,
        tuple(int(n) for n in value.shape),
        value.numel() * value.element_size(),
        value.requires_grad,
        memory_of(value),
    )


def memory_of(tensor: torch.Tensor) -> int:
    """Return a number that tells which tensors share their memory."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def sizes_at(tensor: torch.Tensor, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return some sizes of a tensor."""
    return tuple(tensor.shape[axis] for axis in axes)


def step_of(function: Callable[..., Any], args: list[Argument]) -> Step:
    """Return a step that calls `function` with `args`."""
    return Step(function, Node(tuple, [Node(tuple, args, tuple), Node(dict, [], dict)]))


def version_of(tensor: torch.Tensor) -> int | None:
    """Return the number of writes that torch counted; None for an inference tensor."""
    return None if tensor.is_inference() else tensor._version
