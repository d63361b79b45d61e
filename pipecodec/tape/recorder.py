"""Records the torch functions that glue code calls, and turns tensors into numbered values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .ambient import ambient_now
from .errors import TapeError
from .numbers import TracedFloat, TracedInt, plain, traced
from .place import code_frames, place
from .structure import containers_in, hidden_in, is_object, lengths_in, open_up, tensors_in
from .tape import Method, Out, Step, Tape
from .templates import Const, Device, Held, Node, Sub, Template, Training, Value, keys_of

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
_SIMPLE = (str, bytes, int, float, complex, torch.dtype, torch.layout, torch.memory_format)


class Recorder(TorchFunctionMode):
    """Records on a tape while ``recording``; ``leaf`` is the call of a leaf that is running."""

    def __init__(self, model: nn.Module, glue: set[str]) -> None:
        super().__init__()
        devices = {tensor.device for tensor in model.parameters()}
        device = devices.pop() if len(devices) == 1 else None
        self.tape = Tape(model.training, device, ambient_now(device))
        self.model = model
        self.glue = glue
        self.recording = False
        self.watch: Callable[..., Any] | None = None
        self.module_names = {id(module): name for name, module in model.named_modules()}
        self.held = held_tensors(model)
        self.keys: dict[int, int] = {}  # id(tensor) -> value
        self.inner: dict[int, Out | tuple[Step, Any, Any]] = {}  # made inside a leaf
        self.alive: list[Any] = []  # so that ids stay unique
        self.containers: dict[int, tuple[Step, Any, list[int]]] = {}
        self.opened: set[int] = set()  # objects that hold tensors at some time
        self.written: set[int] = set()  # values that a step wrote to
        self.last_call: dict[str, Step] = {}
        self.known_arithmetic: dict[Any, Any] = {}

    # -- values

    def new(self, value: Any, label: str) -> int:
        """Number a value, and find it again by its identity if it is a tensor."""
        key = self.tape.new(plain(value), label, place())
        if isinstance(value, torch.Tensor):
            self.keys[id(value)] = key
            self.alive.append(value)
        return key

    def encode(self, value: Any, above: tuple[int, ...] = ()) -> Template:
        """Return the template of an argument."""
        if isinstance(value, torch.Tensor):
            return self.refer(value)
        if isinstance(value, (TracedInt, TracedFloat)):
            return Value(value.key)
        if isinstance(value, nn.Module) and id(value) in self.module_names:
            return Sub(self.module_names[id(value)])
        if isinstance(value, torch.device):
            return Device() if value == self.tape.device else Const(value)
        if value is None or isinstance(value, _SIMPLE) or id(value) in above:
            return Const(value)
        if id(value) in self.containers and (whole := self._whole(value)) is not None:
            return whole
        parts = open_up(value)
        if parts is None:
            self._refuse_hidden(value)
            return Const(value)
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

    def _refuse_hidden(self, value: Any) -> None:
        def travels(one: Any) -> bool:
            if isinstance(one, torch.Tensor):
                return id(one) in self.keys or id(one) in self.inner
            return isinstance(one, (TracedInt, TracedFloat))

        found = hidden_in(value, travels)
        if found is not None:
            kind = "a tensor" if isinstance(found, torch.Tensor) else "a size"
            raise TapeError(
                f"{place()}: {kind} is hidden in a {type(value).__name__} that a module or function "
                f"is called with, so it would stay as it was observed; pass it as an argument, or "
                f"in a list, dict or dataclass"
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

    def refer(self, tensor: torch.Tensor) -> Template:
        """Return the template of a tensor; raise if nothing that was recorded made it."""
        if id(tensor) in self.keys:
            key = self.keys[id(tensor)]
            fact = self.tape.facts[key]
            if tensor.requires_grad and not fact.requires_grad and key not in self.written:
                raise TapeError(
                    f"{place()}: {self.tape.names[key]} requires a gradient that its maker did not "
                    f"give it; was it made in an autograd function that could not be observed?"
                )
            return Value(key)
        if id(tensor) in self.held:
            return Held(self.held[id(tensor)])
        if id(tensor) in self.inner:
            step, where, path = self.inner[id(tensor)]
            key = self.new(tensor, f"{step.target}.{where[0]}".strip("."))
            step.outs.append(Out(where, path, key))
            return Value(key)
        for name, module in self.model.named_modules():
            for attribute, value in vars(module).items():
                step = self._leaf_above(name) if value is tensor else None
                if step is not None:
                    key = self.new(tensor, f"{name}.{attribute}")
                    step.outs.append(Out("attributes", (name, attribute), key))
                    return Value(key)
        raise TapeError(
            f"a tensor of shape {tuple(tensor.shape)} reaches {place()} by a way that was not "
            f"observed: it is no input, no parameter and no buffer, and no torch function or "
            f"submodule returned it (it came from numpy, or was kept from an earlier call). Make it "
            f"in a module of its own, or register it as a buffer"
        )

    def _leaf_above(self, name: str) -> Step | None:
        for leaf, step in reversed(self.last_call.items()):  # the latest first
            owner = leaf.rpartition(".")[0] if isinstance(step.target, Method) else leaf
            if not owner or f"{name}.".startswith(f"{owner}."):
                return step
        return None

    def settle(self, template: Template) -> Template:
        """Make constants of the objects in which no call ever found or left a tensor."""
        if isinstance(template, Node):
            template.children = [self.settle(child) for child in template.children]
            source = template.source
            if source is not None and id(source) not in self.opened and not _varies(template):
                return Const(source)
        return template

    # -- steps

    def add(self, step: Step) -> None:
        """Append a step, with the methods of glue modules from which it came."""
        step.methods = self._methods()
        self.tape.steps.append(step)

    def _methods(self) -> tuple[str, ...]:
        found = []
        for frame in code_frames():
            owner = frame.f_locals.get("self")
            name = self.module_names.get(id(owner))
            method = frame.f_code.co_name
            if name is None or name not in self.glue or method.startswith("_"):
                continue
            function = getattr(type(owner), method, None)
            if (
                method != "forward"
                and inspect.unwrap(function or _nothing).__code__ is frame.f_code
            ):
                found.append(f"{name}.{method}".lstrip("."))
        return tuple(reversed(found))

    def arithmetic(
        self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any, guard: bool
    ) -> Any:
        """Record arithmetic on traced numbers; see ``numbers``."""
        args = self.encode_call(operands, {})
        step = Step(function, args, place=place())
        again = (function, tuple(keys_of(args)), tuple(map(plain, operands)))
        if again in self.known_arithmetic:
            return self.known_arithmetic[again]
        if guard:
            step.expect = (result,)
        else:
            key = self.new(result, "number")
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
            raise TapeError(
                f"{place()} runs inside vmap or grad of torch.func, which cannot be replayed call by "
                f"call; do it in a module of its own, below the layers that are cut"
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
        step.args = self.encode_call(args, kwargs)
        if _writes(name, str(getattr(function, "__name__", "")), kwargs):
            self._note_writes(step, kwargs["out"] if "out" in kwargs else args[:1])
        result = function(*args, **kwargs)
        known = id(result) in self.keys or id(result) in self.held
        if isinstance(result, torch.Tensor) and known and not step.mutates:
            result = torch.ops.aten.alias(result)  # so that every value has one maker
        if name in _SIZES and isinstance(result, (int, torch.Size)):
            result = self._sized(step, result)
        elif name in _ASKED:
            step.expect = (result,)
        else:
            self.outputs(step, result)
            if not step.outs and not step.mutates:
                return result  # a dtype, a rank: the same for every input
        self.add(step)
        return result

    def _note_writes(self, step: Step, targets: Any) -> None:
        for _, tensor in tensors_in(targets):
            template = self.refer(tensor)
            if isinstance(template, Value):
                step.writes += (template.key,)
                self.written.add(template.key)
            elif isinstance(template, Held):
                step.writes_held += (template.name,)

    def _sized(self, step: Step, result: Any) -> Any:
        def number(path: tuple[Any, ...], value: int) -> TracedInt | TracedFloat:
            key = self.new(value, "size")
            step.outs.append(Out("result", path, key))
            return traced(int(value), self, key)

        if isinstance(result, torch.Size):
            return torch.Size([number((i,), n) for i, n in enumerate(result)])
        return number((), result)

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


def _nothing() -> None: ...


def _varies(template: Template) -> bool:
    if isinstance(template, Node):
        return any(map(_varies, template.children))
    return isinstance(template, (Value, Training))


def _writes(label: str, name: str, kwargs: dict[str, Any]) -> bool:
    in_place = label.endswith("_") and not label.endswith("__")
    operation = label[:3] == "__i" and label not in ("__invert__", "__int__", "__index__")
    return (
        in_place
        or operation
        or label == "__setitem__"
        or name == "__set__"
        or kwargs.get("out") is not None
    )
