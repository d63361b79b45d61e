"""Runs a case in all ways, and says for each how it came out."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn.parameter import is_lazy

import pipecodec
from pipecodec.cutting.untouched import untouched
from pipecodec.errors import PartitionError
from pipecodec.stages.stage import Stage, bind_inputs
from pipecodec.tape.batch import Batch
from pipecodec.tape.structure import tensors_in

from ..models.compare import difference, received
from .case import RIGHT, Case

__all__ = ["outcomes", "traces"]

SEED = 3


def outcomes(case: Case) -> dict[str, str]:
    """Return "right", a refusal or a fault for "partition" and each kind of batch."""
    torch.manual_seed(0)
    model = case.model()
    first = inputs_of(case, 2)
    before = traces(model)
    try:
        part = pipecodec.partition(model, kwargs=first, **case.options)
    except PartitionError as error:
        return {"partition": left(before, model) or f"refused: {error}"}
    except Exception as error:
        return {"partition": f"RAW {type(error).__name__}: {error}"}
    found = {"partition": left(before, model) or RIGHT}
    for kind, batch in batches(case).items():
        for mode in (True, False):
            name = kind if mode else f"{kind} eval"
            found[name] = compared(part, model, batch, mode, run_detached)
            if mode and kind in ("same", "size") and found[name] == RIGHT:
                found[name] = compared(part, model, batch, mode, run_local)
    return found


def batches(case: Case) -> dict[str, dict[str, Any]]:
    def other(value: Any) -> Any:
        moved = torch.is_tensor(value) and value.is_floating_point()
        return (value.detach() * -3 + 1).requires_grad_(value.requires_grad) if moved else value

    same = inputs_of(case, 2)
    data = torch.utils._pytree.tree_map(other, inputs_of(case, 2))
    return {"same": same, "data": data, "size": inputs_of(case, 5), "one": inputs_of(case, 1)}


def inputs_of(case: Case, samples: int) -> dict[str, Any]:
    return case.inputs(samples, torch.Generator().manual_seed(samples))


Results = tuple[Any, ...]


def compared(
    part: pipecodec.Partition,
    model: nn.Module,
    batch: Mapping[str, Any],
    mode: bool,
    run: Callable[..., Any],
) -> str:
    try:
        expected = results(model, batch, mode, run_model)
    except Exception as error:
        expected = type(error)
    try:
        got = results(model, batch, mode, lambda _, given: run(part, given))
    except PartitionError as error:
        return f"refused: {error}"
    except Exception as error:
        if type(error) is expected:
            return RIGHT
        return f"RAW {type(error).__name__}: {error}"
    if run is run_detached:
        # The gradients of a weight that stages share are added in another order.
        for name in {path for places in part.tie_weights.values() for path, _ in places}:
            one, other = expected[1].get(name), got[1].get(name)
            if one is not None and other is not None and torch.allclose(one, other):
                got[1][name] = one
    text = difference(expected, got)
    return RIGHT if text is None else f"WRONG {text}"


def results(
    model: nn.Module, batch: Mapping[str, Any], mode: bool, run: Callable[..., Any]
) -> Results:
    """Return the output, all gradients and all buffers after a run; the model is as it was."""
    with untouched(model):
        model.train(mode)
        torch.manual_seed(SEED)
        random.seed(SEED)
        numpy.random.seed(SEED)
        given = Batch({}, dict(batch)).copy().named
        inputs = [(path, leaf) for path, leaf in tensors_in(given) if leaf.is_leaf]
        output, backward = run(model, given)
        tensors = [tensor for _, tensor in tensors_in(output)]
        losses = [total(tensor) for tensor in tensors if tensor.requires_grad]
        if losses:
            torch.stack(losses).sum().backward()
        backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        leaves = {str(path): leaf.grad for path, leaf in inputs}
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    return output, gradients, leaves, buffers


def total(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    return (dense.abs() if dense.is_complex() else dense).float().sum()


def run_model(model: nn.Module, given: dict[str, Any]) -> Any:
    signature = inspect.signature(model.forward)
    if not all(name in signature.parameters for name in given):
        return model(**given), lambda: None
    return Batch.of(model, (), given).call(model), lambda: None


def run_local(part: pipecodec.Partition, given: dict[str, Any]) -> Any:
    return pipecodec.run_local(part, **given), lambda: None


def run_detached(part: pipecodec.Partition, given: dict[str, Any]) -> Any:
    """Run stage by stage as processes would: a boundary carries copies without history."""
    values: list[Any] = bind_inputs(part.input_names, (), given)
    boundaries: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for k, module in enumerate(part.stages):
        stage = Stage(part.liveness, part.stage_id_2_arg_names, k, outputs=part.outputs[k])
        named = stage.bind(values)
        positional, keyword = stage.arguments(named)
        output = module(*positional, **keyword)
        if k + 1 < len(part.stages):
            stage.name_outputs(named, output)
            sent = stage.collect(named, part.liveness[k + 1])
            values, copies = received(sent, [])
            boundaries.append(copies)

    def backward() -> None:
        for copies in reversed(boundaries):
            reached = [(leaf, copy.grad) for leaf, copy in copies if copy.grad is not None]
            if reached:
                torch.autograd.backward(*zip(*reached, strict=True))

    return output, backward


# -- traces on the model and in the process


def traces(model: nn.Module) -> dict[str, Any]:
    """Return all that `partition` must leave as it was."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[f"{name}.class"] = type(module)
        found[f"{name}.__call__"] = type(module).__call__
        for attribute, value in vars(module).items():
            plain = isinstance(value, int | float | str | torch.Tensor)
            found[f"{name}.{attribute}"] = value if plain else repr(type(value))
            if plain and type(value) is not bool:
                found[f"{name}.{attribute} type"] = type(value)
            if attribute.startswith("_") and isinstance(value, dict):
                found[f"{name}.{attribute} keys"] = list(value)
    for name, parameter in model.named_parameters():
        found[f"{name} id"], found[f"{name} grad"] = id(parameter), parameter.grad
    for name, value in model.state_dict().items():
        known = isinstance(value, torch.Tensor) and not is_lazy(value)
        found[f"{name} value"] = value.clone() if known else type(value)
    found["chance"] = torch.get_rng_state(), random.getstate(), repr(numpy.random.get_state())
    found["apply"] = vars(torch.autograd.Function)["apply"]
    found["hooks"] = [
        len(hooks)
        for name, hooks in vars(nn.modules.module).items()
        if name.startswith("_global") and isinstance(hooks, dict)
    ]
    found["switches"] = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
    )
    return found


def left(before: Mapping[str, Any], model: nn.Module) -> str | None:
    after = traces(model)
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in before or name not in after:
            return f"LEFT {name}"
        one, other = before[name], after[name]
        if name == "chance":
            if not torch.equal(one[0], other[0]) or one[1:] != other[1:]:
                return "LEFT another random state"
        elif isinstance(one, torch.Tensor):
            if not isinstance(other, torch.Tensor) or difference(one.detach(), other.detach()):
                return f"LEFT {name}"
        elif one != other:
            return f"LEFT {name}: {other!r} for {one!r}"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """One thread, and no warnings: models here warn on purpose."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)
