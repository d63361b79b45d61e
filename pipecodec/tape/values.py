"""Turns the tensors, sizes and objects of a running forward into numbered values."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence, Set
from typing import Any

import torch
from torch import nn

from ..errors import PartitionError
from .arguments import Argument, Const, Device, Held, Node, Sub, Training, Value
from .kept import leaf_above
from .numbers import TracedFloat, TracedInt, plain
from .place import place
from .structure import (
    containers_in,
    hidden_in,
    is_object,
    lengths_in,
    open_function,
    open_up,
    tensors_in,
)
from .tape import Fact, Method, Out, Step, Tape, memory_of

__all__ = ["Values"]

_SIMPLE = (str, bytes, int, float, complex, torch.dtype, torch.layout, torch.memory_format)


class Values:
    """The values of one observation, found by the identity of their tensors.

    ``inside`` are the tensors that a submodule of a leaf returned, ``opened`` the objects that hold
    tensors at some time, ``written`` the memory that a step wrote into. ``alive`` keeps all
    tensors, so that identities stay unique.
    """

    def __init__(self, model: nn.Module, tape: Tape) -> None:
        self.model, self.tape = model, tape
        self.module_names = {id(module): name for name, module in model.named_modules()}
        self.held = held_tensors(model)
        self.held_at = held_memory(model, self.held)
        self.keys: dict[int, int] = {}
        self.inside: dict[int, tuple[Step, Any, Any]] = {}
        self.alive: list[Any] = []
        self.containers: dict[int, tuple[Step, Any, list[int]]] = {}
        self.opened: set[int] = set()
        self.written: set[int] = set()
        self.last_call: dict[str, Step] = {}

    def new(self, value: Any, label: str) -> int:
        """Number a value, and find it again by its identity if it is a tensor."""
        key = self.tape.new(plain(value), label, place())
        if isinstance(value, torch.Tensor):
            self.keys[id(value)] = key
            self.alive.append(value)
        return key

    def note_write(self, key: int) -> None:
        """Note that a step writes into a value; others over its memory may get a gradient so."""
        fact = self.tape.facts[key]
        if isinstance(fact, Fact):
            self.written.add(fact.memory)

    def held_by_memory(self, tensor: torch.Tensor) -> str | None:
        """Return the name of the model's tensor over whose memory a tensor lies, if any."""
        found = self.held_at.get(memory_of(tensor))
        return None if found is None else found[0]

    def held_by_leaves(self, glue: Set[str]) -> Iterator[tuple[str, str]]:
        """Yield (leaf, name) for each of the model's tensors that a leaf holds."""
        for name, module in self.model.named_modules(remove_duplicate=False):
            if name not in glue:
                for tensor in _tensors_of(module):
                    held = self.held_by_memory(tensor)
                    if held is not None:
                        yield leaf_above(name, glue), held

    def encode(self, value: Any, above: tuple[int, ...] = ()) -> Argument:
        """Return the template of an argument."""
        if isinstance(value, torch.Tensor):
            return self.refer(value)
        if isinstance(value, (TracedInt, TracedFloat)):
            return Value(value.key)
        if isinstance(value, nn.Module) and id(value) in self.module_names:
            return Sub(self.module_names[id(value)])
        if isinstance(value, torch.device):
            return Device() if value == self.tape.device else Const(value)
        if value is None or isinstance(value, _SIMPLE):
            return Const(value)
        if id(value) in above:
            if hidden_in(value, self._travels) is not None:
                raise self._hidden(value, None)
            return Const(value)
        if id(value) in self.containers and (whole := self._whole(value)) is not None:
            return whole
        parts = open_up(value)
        if parts is None:
            hidden = hidden_in(value, self._travels)
            if hidden is None:
                return Const(value)
            if not isinstance(value, types.FunctionType):
                raise self._hidden(value, hidden)
            parts = open_function(value)
        children = [self.encode(child, (*above, id(value))) for child in parts.children]
        if isinstance(value, (tuple, slice)) and all(isinstance(c, Const) for c in children):
            return Const(value)
        node = Node(parts.rebuild, children, parts.kind, tuple(parts.keys))
        if is_object(value):
            node.source = value
            if _varies(node):
                self.opened.add(id(value))
        return node

    def encode_call(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Node:
        """Return the template of (positional arguments, keyword arguments)."""
        return Node(tuple, [self.encode(tuple(args)), self.encode(kwargs)], tuple)

    def _travels(self, value: Any) -> bool:
        if isinstance(value, torch.Tensor):
            return id(value) in self.keys or id(value) in self.inside
        return isinstance(value, (TracedInt, TracedFloat))

    def _hidden(self, value: Any, found: Any) -> PartitionError:
        kind = "a tensor" if isinstance(found, torch.Tensor) else "a size"
        return PartitionError(
            f"{place()}: {kind} is hidden in a {type(value).__name__} that a module or "
            f"function is called with, so it would stay as it was observed; pass it as an "
            f"argument, or in a list, dict or dataclass"
        )

    def _whole(self, value: Any) -> Value | None:
        """Return the value that is all of a list that a call gave, however long it may be."""
        step, path, ids = self.containers[id(value)]
        if ids != [id(item) for item in value]:
            return None
        for out in step.outs:
            if (out.where, out.path) == ("result", path):
                return Value(out.key)
        key = self.new(value, ".".join([step.label, *map(str, path)]))
        step.outs.append(Out("result", path, key))
        return Value(key)

    def refer(self, tensor: torch.Tensor) -> Argument:
        """Return the template of a tensor; raise if nothing that was recorded made it."""
        if id(tensor) in self.keys:
            key = self.keys[id(tensor)]
            fact = self.tape.facts[key]
            if tensor.requires_grad and not (fact.requires_grad or fact.memory in self.written):
                raise PartitionError(
                    f"{place()}: {self.tape.names[key]} requires a gradient that its maker did not "
                    f"give it; was it made in an autograd function that could not be observed?"
                )
            return Value(key)
        if id(tensor) in self.held:
            return Held(self.held[id(tensor)])
        if id(tensor) in self.inside:
            step, where, path = self.inside[id(tensor)]
            key = self.new(tensor, f"{step.target}.{where[0]}".strip("."))
            step.outs.append(Out(where, path, key))
            return Value(key)
        for name, module in self.model.named_modules():
            for attribute, value in vars(module).items():
                leaf = self._leaf_above(name) if value is tensor else None
                if leaf is not None:
                    key = self.new(tensor, f"{name}.{attribute}")
                    leaf.outs.append(Out("attributes", (name, attribute), key))
                    return Value(key)
        raise PartitionError(
            f"a tensor of shape {tuple(tensor.shape)} reaches {place()} by a way that was not "
            f"observed: it is no input, no parameter and no buffer, and no torch function or "
            f"submodule returned it (it came from numpy, or was kept from an earlier call). Make "
            f"it in a module of its own, or register it as a buffer"
        )

    def _leaf_above(self, name: str) -> Step | None:
        for leaf, step in reversed(self.last_call.items()):  # the latest first
            owner = leaf.rpartition(".")[0] if isinstance(step.target, Method) else leaf
            if not owner or f"{name}.".startswith(f"{owner}."):
                return step
        return None

    def settle(self, template: Argument) -> Argument:
        """Make constants of the objects in which no call ever found or left a tensor."""
        if isinstance(template, Node):
            template.children = [self.settle(child) for child in template.children]
            source = template.source
            if source is not None and id(source) not in self.opened and not _varies(template):
                return Const(source)
        return template

    def outputs(self, step: Step, result: Any) -> None:
        """Number the tensors in the result of a step."""
        label = step.label
        step.lengths = lengths_in(result)
        for path, container in containers_in(result):
            self.alive.append(container)
            self.containers[id(container)] = (step, path, [id(item) for item in container])
        for path, tensor in tensors_in(result):
            key = self.new(tensor, ".".join([label, *map(str, path)]))
            step.outs.append(Out("result", path, key))


def held_tensors(model: nn.Module) -> dict[int, str]:
    """Return the name of each parameter, buffer and other tensor that a module has, by identity."""
    held: dict[int, str] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        held.setdefault(id(tensor), name)
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                held.setdefault(id(value), f"{prefix}.{name}".lstrip("."))
    return held


def held_memory(model: nn.Module, held: dict[int, str]) -> dict[int, tuple[str, Any]]:
    """Return for the memory of each of the model's tensors the first name of one there.

    The tensor beside it shares the memory and keeps it alive, so that no other gets its number.
    """
    found: dict[int, tuple[str, Any]] = {}
    for module in model.modules():
        for tensor in _tensors_of(module):
            found.setdefault(memory_of(tensor), (held[id(tensor)], tensor.detach()))
    return found


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    for values in (module._parameters, module._buffers, vars(module)):
        yield from (value for value in values.values() if isinstance(value, torch.Tensor))


def _varies(template: Argument) -> bool:
    if isinstance(template, Node):
        return any(map(_varies, template.children))
    return isinstance(template, (Value, Training))
