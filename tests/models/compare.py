"""Runs a partition and its model on the same inputs, and compares them bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import pipecodec
from pipecodec.stages.stage import Stage, bind_inputs

from .build import loss_of

__all__ = ["difference", "facts", "run_detached", "run_model", "run_stages"]

Run = tuple[Any, dict[str, torch.Tensor | None]]
Record = Callable[[int, dict[str, Any]], None]
SEED = 7


def copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies, so that no run writes into the inputs of another."""
    copy = pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, dict(values))
    return dict(copy)


def run_model(model: nn.Module, inputs: Mapping[str, Any]) -> Run:
    """Return the model's output and the gradients of its loss, by parameter."""
    start(model)
    output = model(**copied(inputs))
    loss_of(output).backward()
    return output, gradients(model)


def run_stages(part: pipecodec.Partition, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
    """Run all stages in one graph, through pack and unpack at each boundary."""
    start(model)
    output = pipecodec.run_local(part, **copied(inputs))
    loss_of(output).backward()
    return output, gradients(model)


def run_detached(
    part: pipecodec.Partition,
    model: nn.Module,
    inputs: Mapping[str, Any],
    record: Record | None = None,
    relaid: list[tuple[int, ...]] | None = None,
) -> Run:
    """Run stage by stage as processes would: a boundary carries copies without history.

    Backward goes stage by stage too, with the gradients that the copies got. `record` is called
    with the number of each boundary and the values that cross it, by name. `relaid` gets the shape
    of each value or gradient that arrives with other strides than it had: a tensor with gaps in its
    memory arrives contiguous, and a gradient has the strides of its value.
    """
    relaid = [] if relaid is None else relaid
    start(model)
    values: list[Any] = bind_inputs(part.input_names, (), copied(inputs))
    boundaries: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for k, module in enumerate(part.stages):
        stage = Stage(part.liveness, part.stage_id_2_arg_names, k, outputs=part.outputs[k])
        named = stage.bind(values)
        positional, keyword = stage.arguments(named)
        output = module(*positional, **keyword)
        if k + 1 < len(part.stages):
            stage.name_outputs(named, output)
            sent = stage.collect(named, part.liveness[k + 1])
            if record is not None:
                record(k, dict(zip(part.liveness[k + 1], sent, strict=True)))
            values, copies = received(sent, relaid)
            boundaries.append(copies)
    loss_of(output).backward()
    for copies in reversed(boundaries):
        reached = [(leaf, copy.grad) for leaf, copy in copies if copy.grad is not None]
        if reached:
            torch.autograd.backward(*zip(*reached, strict=True))
    return output, gradients(model)


def received(
    sent: list[Any], relaid: list[tuple[int, ...]]
) -> tuple[list[Any], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the values as another process would get them, and each differentiable leaf's copy."""

    def note(one: torch.Tensor, other: torch.Tensor) -> None:
        if one.stride() != other.stride():
            relaid.append(tuple(one.shape))

    codec = pipecodec.Codec(dynamic_shape=True)
    twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def twin(leaf: torch.Tensor) -> torch.Tensor:
        if id(leaf) not in twins:
            copy = without_repeats(leaf).clone().expand(leaf.shape).detach()
            twins[id(leaf)] = leaf, copy.requires_grad_(leaf.requires_grad)
            note(leaf, copy)
            if copy.requires_grad:
                copy.register_hook(lambda gradient: note(gradient, copy))
        return twins[id(leaf)][1]

    packed = [twin(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in codec.pack(sent)]
    copies = [(leaf, copy) for leaf, copy in twins.values() if leaf.requires_grad]
    return codec.unpack(packed), copies


def without_repeats(leaf: torch.Tensor) -> torch.Tensor:
    """Return one of each of a tensor's expanded items: these stay expanded as they cross."""
    one = leaf.detach()
    for dim, stride in enumerate(leaf.stride()):
        if stride == 0:
            one = one.narrow(dim, 0, min(1, leaf.shape[dim]))
    return one


def start(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    torch.manual_seed(SEED)


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def difference(expected: Any, got: Any, path: str = "output") -> str | None:
    """Return where and how two values differ, in type, structure or a bit of a tensor, or None."""
    if type(expected) is not type(got):
        return f"{path} is a {type(got).__name__}, not a {type(expected).__name__}"
    if isinstance(expected, torch.Tensor):
        return tensor_difference(expected, got, path)
    if isinstance(expected, Mapping):
        items = [(f"{path}[{key!r}]", expected[key], got.get(key)) for key in expected]
        if list(expected) != list(got):
            return f"{path} has the keys {list(got)}, not {list(expected)}"
    elif isinstance(expected, list | tuple):
        items = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(expected, got, strict=False))]
        if len(expected) != len(got):
            return f"{path} has {len(got)} items, not {len(expected)}"
    elif hasattr(expected, "__dict__"):
        return difference(vars(expected), vars(got), path)
    else:
        return None if expected == got else f"{path} is {got!r}, not {expected!r}"
    found = (difference(one, other, where) for where, one, other in items)
    return next((text for text in found if text is not None), None)


def tensor_difference(expected: torch.Tensor, got: torch.Tensor, path: str) -> str | None:
    if (expected.dtype, expected.shape) != (got.dtype, got.shape):
        return f"{path} is {facts(got)}, not {facts(expected)}"
    if expected.requires_grad != got.requires_grad:
        return f"{path} {'requires' if got.requires_grad else 'lacks'} a gradient"
    one, other = (bits(tensor) for tensor in (expected, got))
    if torch.equal(one, other):
        return None
    return f"{path} differs in {int((one != other).sum())} of {one.numel()} bytes"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
    plain = dense.resolve_conj().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8)


def facts(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
