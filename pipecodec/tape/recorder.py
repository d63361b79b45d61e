"""Records the torch functions that glue code calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import PartitionError
from .ambient import ambient_now
from .arguments import Value, keys_of
from .numbers import TracedFloat, TracedInt, plain, traced
from .place import code_frames, place
from .structure import tensors_in
from .tape import Out, Step, Tape, version_of
from .values import Values
from .writing import written_by

__all__ = ["Recorder"]

_ASKED = {
    "__bool__",
    "__contains__",
    "__float__",
    "__index__",
    "__int__",
    "__len__",
    "allclose",
    "data_ptr",
    "equal",
    "is_contiguous",
    "is_nonzero",
    "item",
    "numpy",
    "requires_grad",
    "storage_offset",
    "stride",
    "tolist",
}
"""Functions whose result Python goes on with: each becomes a guard."""
_SIZES = {"shape", "size", "numel", "nelement"}
_FIXED = {
    "__dir__",
    "__get_device__",
    "__hash__",
    "device",
    "dim",
    "dtype",
    "element_size",
    "get_device",
    "grad_fn",
    "has_names",
    "is_coalesced",
    "is_complex",
    "is_conj",
    "is_cpu",
    "is_cuda",
    "is_floating_point",
    "is_inference",
    "is_leaf",
    "is_meta",
    "is_neg",
    "is_nested",
    "is_quantized",
    "is_signed",
    "is_sparse",
    "itemsize",
    "layout",
    "names",
    "ndim",
    "ndimension",
    "promote_types",
    "result_type",
    "type",
}
"""Functions whose result is the same for every input of the observed dtypes and ranks."""
_BACKWARD = {"backward", "grad", "register_hook", "register_post_accumulate_grad_hook"}


class Recorder(TorchFunctionMode):
    """Records on a tape while ``recording``; ``watch`` sees all functions inside a leaf."""

    def __init__(self, model: nn.Module, glue: set[str], numbers: Set[str]) -> None:
        super().__init__()
        devices = {tensor.device for tensor in model.parameters()}
        device = devices.pop() if len(devices) == 1 else None
        self.tape = Tape(model.training, device, ambient_now(device))
        self.model = model
        self.glue = glue
        self.numbers = numbers  # places at which ``item`` gives a number of the tape
        self.recording = False
        self.watch: Callable[..., Any] | None = None
        self.in_leaf: Callable[[], AbstractContextManager[None]] = nullcontext
        self.values = Values(model, self.tape)
        self.at_end: Callable[[], None] = _nothing
        self.known_arithmetic: dict[Any, Any] = {}

    def add(self, step: Step) -> None:
        """Append a step, with the methods of glue modules from which it came."""
        step.methods = self._methods()
        self.tape.steps.append(step)

    def _methods(self) -> tuple[str, ...]:
        found = []
        for frame in code_frames():
            owner = frame.f_locals.get("self")
            name = self.values.module_names.get(id(owner))
            method = frame.f_code.co_name
            if name is None or name not in self.glue or method.startswith("_"):
                continue
            function = inspect.unwrap(getattr(type(owner), method, None) or _nothing)
            if method != "forward" and getattr(function, "__code__", None) is frame.f_code:
                found.append(f"{name}.{method}".lstrip("."))
        return tuple(reversed(found))

    def arithmetic(
        self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any, guard: bool
    ) -> Any:
        """Record arithmetic on traced numbers; see ``numbers``."""
        args = self.values.encode_call(operands, {})
        step = Step(function, args, place=place())
        again = (function, tuple(keys_of(args)), tuple(map(plain, operands)))
        if again in self.known_arithmetic:
            return self.known_arithmetic[again]
        if guard:
            step.expect = (result,)
        else:
            key = self.values.new(result, "number")
            step.outs.append(Out("result", (), key))
            result = traced(result, self, key)
        self.add(step)
        self.known_arithmetic[again] = result
        return result

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Record the call of a torch function, or watch it inside a leaf."""
        kwargs = kwargs or {}
        if not self.recording:
            watch = self.watch
            return watch(function, args, kwargs) if watch else function(*args, **kwargs)
        if torch._C._functorch.maybe_current_level() is not None:
            raise PartitionError(
                f"{place()} runs inside vmap or grad of torch.func, which cannot be replayed call "
                f"by call; do it in a module of its own, below the layers that are cut"
            )
        return self.call_function(function, args, kwargs)

    def call_function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call a torch function and record it."""
        self.recording = False
        try:
            return self._recorded(function, args, kwargs)
        finally:
            self.recording = True

    def _recorded(self, function: Any, args: Any, kwargs: Any) -> Any:
        step = Step(function, place=place(), ambient=ambient_now(self.tape.device))
        name = step.label
        if getattr(function, "__name__", "") in _BACKWARD:
            raise PartitionError(
                f"{step.place} calls {name} between the layers: the graph of a gradient ends at a "
                f"cut, so no stage could do the same; do it in a module of its own"
            )
        step.args = self.values.encode_call(args, kwargs)
        written = written_by(function, args, kwargs)
        self._note_writes(step, written)
        before = [(tensor, version_of(tensor)) for _, tensor in tensors_in((args, kwargs))]
        result = function(*args, **kwargs)
        self._note_writes(step, [t for t, version in before if version_of(t) != version])
        step.writes_gradient = any(tensor.requires_grad for _, tensor in tensors_in(written))
        known = id(result) in self.values.keys or id(result) in self.values.held
        if isinstance(result, torch.Tensor) and known and not step.mutates:
            result = torch.ops.aten.alias(result)  # so that every value has one maker
        if name in _SIZES and isinstance(result, (int, torch.Size)):
            result = self._sized(step, result)
        elif name == "item" and step.place in self.numbers and type(result) in (int, float):
            key = self.values.new(result, "item")
            step.outs.append(Out("result", (), key))
            result = traced(result, self, key)
        elif name in _ASKED:
            step.expect = (result,)
        else:
            self.values.outputs(step, result)
            if not step.outs and not step.mutates:
                if result is None or name in _FIXED:
                    return result
                step.expect = (result,)
        self.add(step)
        return result

    def _note_writes(self, step: Step, targets: Any) -> None:
        for _, tensor in tensors_in(targets):
            template = self.values.refer(tensor)
            if isinstance(template, Value) and template.key not in step.writes:
                step.writes += (template.key,)
                self.values.note_write(template.key)
            held = self.values.held_by_memory(tensor)
            if held is not None and held not in step.writes_held:
                step.writes_held += (held,)

    def _sized(self, step: Step, result: Any) -> Any:
        def number(path: tuple[Any, ...], value: int) -> TracedInt | TracedFloat:
            key = self.values.new(value, "size")
            step.outs.append(Out("result", path, key))
            return traced(int(value), self, key)

        if isinstance(result, torch.Size):
            sizes: list[Any] = [number((i,), n) for i, n in enumerate(result)]
            return torch.Size(sizes)
        return number((), result)


def _nothing() -> None: ...
