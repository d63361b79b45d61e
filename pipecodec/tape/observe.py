"""Runs a model once and records it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import PartitionError
from .arguments import Const, Value, tensors_of
from .batch import Batch
from .kept import Items, contents, mutables_in
from .leaves import intercepted
from .numbers import TracedFloat, TracedInt, plain
from .recorder import Recorder
from .run_model import run_model
from .structure import open_up, take, tensors_in
from .tape import Out, Tape, memory_of, step_of

if TYPE_CHECKING:
    from .fake import FakeRun

__all__ = ["form_of", "glue_above", "observe", "size_of"]


def observe(
    model: nn.Module,
    layers: Sequence[str],
    batch: Batch,
    *,
    methods: Sequence[str] = (),
    numbers: Set[str] = frozenset(),
) -> Tape:
    """Run the model once and return the tape of its glue code.

    Glue is the code of the modules that contain one of the `layers`; every other module that it
    calls is a leaf. `methods` name methods of glue modules ("model.get_image_features") that are
    leaves too. At the places `numbers` ("file:line") a number that is taken out of a tensor goes
    on the tape; elsewhere it is a guard. The model has to be as it will be trained: its precision,
    and its mode.

    A model on meta or of fake tensors is observed as :mod:`.fake` says.

    Raises PartitionError where a value comes by a way that cannot be replayed.
    """
    return run_model(model, lambda run: _observe(model, layers, batch, methods, numbers, run))


def _observe(
    model: nn.Module,
    layers: Sequence[str],
    batch: Batch,
    methods: Sequence[str],
    numbers: Set[str],
    fake: FakeRun | None,
) -> Tape:
    glue = glue_above(model, layers)
    recorder = Recorder(model, glue, numbers)
    tape = recorder.tape
    if fake is not None:
        batch, recorder.in_leaf = batch.map(fake.input), fake.leaf
    batch = batch.copy()
    for name, value in batch.inputs.items():
        _add_input(recorder, name, value)
    before, modules = _glue_state(model, glue), list(map(id, model.modules()))
    with intercepted(recorder, model, methods), recorder:
        recorder.recording = True
        try:
            result = batch.call(model)
        finally:
            recorder.recording = False
    recorder.at_end()
    if modules != list(map(id, model.modules())):
        raise PartitionError(
            f"{type(model).__name__} replaces modules of its own while it runs, so stages would "
            f"hold the old ones; replace them before it is cut"
        )
    tape.result = recorder.values.encode(result)
    if isinstance(result, Mapping):
        tape.result_type, tape.result_keys = type(result), list(result)
    for step in tape.steps:
        step.args = recorder.values.settle(step.args)  # type: ignore[assignment]
    tape.result = recorder.values.settle(tape.result)
    _drop_traced(model, glue)
    for name, value in _glue_state(model, glue).items():
        if name not in before or before[name] != value:
            if not isinstance(value, Items):
                _refuse_lost_state(model, tape, name)
            tape.notes.append(
                f"the model sets {name} between its layers; stages compute with the new value, but "
                f"do not keep it on the module"
            )
    return tape


def _refuse_lost_state(model: nn.Module, tape: Tape, name: str) -> None:
    """Raise if a tensor of the model that is kept from batch to batch would be lost in a stage."""
    prefix, _, leaf = name.rpartition(".")
    read = any(name in tensors_of(step.args) for step in tape.steps)
    if read or leaf in model.get_submodule(prefix)._buffers:
        raise PartitionError(
            f"the model replaces its tensor {name} between its layers, which no stage would keep "
            f"for the next batch; write into it ({leaf}.copy_(...)), or do it in a module"
        )


def glue_above(model: nn.Module, layers: Sequence[str]) -> set[str]:
    """Return the names of the modules that contain a layer; "" is the model."""
    glue = {""}
    for name in layers:
        model.get_submodule(name)
        parts = name.split(".")[:-1]
        glue |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return glue


def _add_input(recorder: Recorder, name: str, value: Any) -> None:
    """Number an input, and guard all that Python may ask of it: its kind, its structure."""
    tape = recorder.tape
    key = recorder.values.new(value, name)
    tape.inputs[name] = key
    form = form_of(value)
    guard = step_of(form_of, [Value(key)])
    guard.expect, guard.place = (form,), f"the input {name!r}"
    tape.steps.append(guard)
    if isinstance(value, torch.Tensor):
        return
    for path, tensor in tensors_in(value):
        item = step_of(take, [Value(key), Const(path)])
        label = ".".join([name, *map(str, path)])
        item.outs.append(Out("result", (), recorder.values.new(tensor, label)))
        tape.steps.append(item)


def form_of(value: Any) -> Any:
    """Return all that glue code could ask an input without being seen; sizes are no part of it."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dim(), value.dtype)
    parts = None if value is None else open_up(value)
    if parts is None:
        return (type(value), value)
    return (type(value), tuple(parts.keys), tuple(map(form_of, parts.children)))


def size_of(tensor: torch.Tensor, dimension: int) -> int:
    """Return one size of an input."""
    return tensor.shape[dimension]


def _glue_state(model: nn.Module, glue: set[str]) -> dict[str, Any]:
    return {name: value for name, value in _attributes(model, glue) if value is not None}


def _attributes(model: nn.Module, glue: set[str]) -> Iterator[tuple[str, Any]]:
    for prefix in sorted(glue):
        own = contents(model.get_submodule(prefix))
        for name, value in own:
            if isinstance(value, torch.Tensor):
                yield f"{prefix}.{name}".lstrip("."), _same_view(value)
            elif isinstance(value, (int, float, str)) and name != "training":
                yield f"{prefix}.{name}".lstrip("."), plain(value)
        for path, value in mutables_in(own):
            yield f"{prefix}{path}".lstrip("."), Items(value)


def _same_view(tensor: torch.Tensor) -> Any:
    """Return an object that is equal for two views of the same items: ``to`` may change nothing."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return memory_of(tensor), tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _drop_traced(model: nn.Module, glue: set[str]) -> None:
    """Leave no traced number on the modules whose code was observed."""
    for prefix in glue:
        values = vars(model.get_submodule(prefix))
        for name, value in values.items():
            if isinstance(value, (TracedInt, TracedFloat)):
                values[name] = plain(value)
