"""Calls of leaves: modules, and methods as a whole, into which the recorder does not look."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import PartitionError
from .ambient import ambient_now
from .numbers import TracedFloat, TracedInt, plain, traced
from .place import place
from .purity import hollow_arguments
from .recorder import Recorder
from .structure import numbers_in, put, take, tensors_in
from .tape import Forward, Method, Out, Step

__all__ = ["intercepted"]

_one_at_a_time = threading.RLock()

_IN_A_CONTAINER = 2  # (0 or 1, position or name) is an argument itself


@contextmanager
def intercepted(recorder: Recorder, model: nn.Module, methods: Sequence[str]) -> Iterator[None]:
    """Send each call of a leaf, and of an autograd function, that glue code makes to the recorder.

    A leaf's class is given another ``__call__`` meanwhile, since a layer may override it, and hooks
    would not see that. `methods` name methods of glue modules that are leaves too. Another thread
    that observes waits, since classes are every thread's.
    """
    with _one_at_a_time, _patched(recorder, model, methods):
        yield


@contextmanager
def _patched(recorder: Recorder, model: nn.Module, methods: Sequence[str]) -> Iterator[None]:
    leaves = {
        id(module): name for name, module in model.named_modules() if name not in recorder.glue
    }
    calls = Leaves(recorder)
    originals: dict[type, Any] = {}
    for module in model.modules():
        if id(module) in leaves:
            cls = next(c for c in type(module).__mro__ if "__call__" in vars(c))
            originals.setdefault(cls, vars(cls)["__call__"])

    def calling(original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if recorder.recording and id(self) in leaves:
                name, call = leaves[id(self)], original.__get__(self)
                return calls.call(name, self, in_leaf(call), args, kwargs)
            return original(self, *args, **kwargs)

        return __call__

    def in_leaf(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with recorder.in_leaf():
                return call(*args, **kwargs)

        return called

    def whole(owner: nn.Module, name: Method, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if not recorder.recording:
                return method(*args, **kwargs)
            return calls.call(name, owner, method, args, kwargs)

        return called

    apply = vars(torch.autograd.Function)["apply"]

    def observed_apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorder.recording:
            return apply.__get__(None, cls)(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            return recorder.call_function(Applied(cls, apply), args, kwargs)

    import torch._functorch.apis as functorch  # it takes longer to import than this package

    vmap = getattr(functorch, "vmap_impl")  # noqa: B009

    def observed_vmap(*args: Any, **kwargs: Any) -> Any:
        if not recorder.recording:
            return vmap(*args, **kwargs)
        return recorder.call_function(vmap, args, kwargs)

    def forward_of(owner: nn.Module, name: Forward) -> Callable[..., Any]:
        forward = owner.forward

        @functools.wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            if not recorder.recording:
                return forward(*args, **kwargs)
            return calls.call(name, owner, in_leaf(forward), args, kwargs)

        return called

    wholes = []
    forwards = [
        (module, vars(module).get("forward"), forward_of(module, Forward(name)))
        for name, module in model.named_modules()
        if name not in recorder.glue and name.rpartition(".")[0] in recorder.glue
    ]
    for name in methods:
        prefix, _, attribute = name.rpartition(".")
        owner = model.get_submodule(prefix)
        wholes.append((owner, attribute, whole(owner, Method(name), getattr(owner, attribute))))
    setattr(torch.autograd.Function, "apply", classmethod(observed_apply))  # noqa: B010
    setattr(functorch, "vmap_impl", observed_vmap)  # noqa: B010
    for cls, original in originals.items():
        setattr(cls, "__call__", calling(original))  # noqa: B010
    for owner, attribute, called in wholes:
        vars(owner)[attribute] = called
    for owner, _, called in forwards:
        vars(owner)["forward"] = called
    try:
        yield
    finally:
        setattr(torch.autograd.Function, "apply", apply)  # noqa: B010
        setattr(functorch, "vmap_impl", vmap)  # noqa: B010
        for owner, attribute, _ in wholes:
            del vars(owner)[attribute]
        for owner, before, _ in forwards:
            if before is None:
                del vars(owner)["forward"]
            else:
                vars(owner)["forward"] = before
        for cls, original in originals.items():
            setattr(cls, "__call__", original)  # noqa: B010


@dataclass(frozen=True)
class Applied:
    """The ``apply`` of an autograd function."""

    function: Any
    apply: Any = field(compare=False, repr=False)

    @property
    def __name__(self) -> str:
        return str(self.function.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply.__get__(None, self.function)(*args, **kwargs)

    def __reduce__(self) -> Any:
        return getattr, (self.function, "apply")


class Leaves:
    """Records calls of leaves.

    Inside a leaf every torch function is watched: a leaf that reads a tensor which another one
    made, or a parameter of another module, would miss it on another rank.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.owner: Any = WeakIdKeyDictionary()  # a tensor made inside a leaf -> the call

    def call(
        self, name: str, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Call a leaf and record it."""
        recorder = self.recorder
        recorder.recording = False
        try:
            step = Step(name, place=place(), ambient=ambient_now(recorder.tape.device))
            step.args = recorder.values.encode_call(args, kwargs)
            args = _without_traced(args)
            kwargs = {name: _without_traced(value) for name, value in kwargs.items()}
            return self._observe(step, module, call, args, kwargs)
        finally:
            recorder.recording = True

    def _observe(
        self, step: Step, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        recorder, name = self.recorder, str(step.target)
        before = {path: (id(t), _version(t)) for path, t in tensors_in((args, kwargs))}
        numbers = dict(numbers_in((args, kwargs)))
        buffers = [(buffer, _version(buffer)) for buffer in module.buffers()]
        is_method = isinstance(step.target, Method)
        prefix = name.rpartition(".")[0] if is_method else name
        handle = self._catch_outputs(step, f"{prefix}." if prefix else "", is_method)
        mine = {id(tensor) for _, tensor in tensors_in((args, kwargs))}
        mine |= {id(t) for m in module.modules() for _, t in tensors_in(dict(vars(m)))}
        recorder.watch = self._watching(step, mine)
        try:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            step.seconds = time.perf_counter() - started
        finally:
            recorder.watch = None
            handle.remove()
        recorder.values.last_call.pop(name, None)
        recorder.values.last_call[name] = step
        self._note_arguments(step, before, args, kwargs)
        self._note_numbers(step, numbers, args, kwargs)
        if any(_version(buffer) != version for buffer, version in buffers):
            step.writes_held += (name,)
        if not is_method:
            step.pure, step.hollow = hollow_arguments(
                module, call, args, kwargs, result, step, recorder.values.keys
            )
        recorder.add(step)
        recorder.values.outputs(step, result)
        return result

    def _catch_outputs(self, step: Step, prefix: str, is_method: bool) -> Any:
        """Note each tensor that a submodule returns: hooks may hand it to glue code."""
        recorder, counts = self.recorder, dict[str, int]()

        def hook(submodule: nn.Module, _: Any, output: Any) -> None:
            path = recorder.values.module_names.get(id(submodule))
            if path is None or not path.startswith(prefix):
                return
            nth = counts[path] = counts.get(path, -1) + 1
            if is_method:
                step.needs += (path,)
            for where, tensor in tensors_in(output):
                recorder.values.alive.append(tensor)
                recorder.values.inside[id(tensor)] = (step, (path[len(prefix) :], nth), where)

        return nn.modules.module.register_module_forward_hook(hook)

    def _watching(self, step: Step, mine: set[int]) -> Callable[..., Any]:
        recorder = self.recorder

        def watch(function: Any, args: Any, kwargs: Any) -> Any:
            for _, tensor in tensors_in((args, kwargs)):
                if id(tensor) in mine:
                    if isinstance(step.target, Method) and id(tensor) in recorder.values.held:
                        step.needs += (recorder.values.held[id(tensor)],)
                    continue
                self._refuse_foreign(step, tensor)
            result = function(*args, **kwargs)
            for _, tensor in tensors_in(result):
                if id(tensor) not in mine:
                    self.owner[tensor] = step
            return result

        return watch

    def _refuse_foreign(self, step: Step, tensor: torch.Tensor) -> None:
        recorder, owner = self.recorder, self.owner.get(tensor)
        if owner is step:
            return
        if owner is not None:
            raise PartitionError(
                f"{step.target} reads a tensor at {place()} that {owner.target} made, but not "
                f"through its arguments, so it would not be there on another rank; pass it"
            )
        if id(tensor) in recorder.values.keys:
            name = recorder.tape.names[recorder.values.keys[id(tensor)]]
            raise PartitionError(
                f"{step.target} reads {name} at {place()}, but not through its arguments, so it "
                f"would not be there on another rank; pass it"
            )
        held = recorder.values.held.get(id(tensor))
        if held is not None and isinstance(tensor, nn.Parameter):
            raise PartitionError(
                f"{step.target} reads {held} at {place()}, which is not its own, so it would not "
                f"be there on another rank; pass it, or give it to the module under a name"
            )

    def _note_arguments(self, step: Step, before: dict[Any, Any], args: Any, kwargs: Any) -> None:
        """Note the tensors that a leaf put into its arguments, and those it wrote into."""
        recorder = self.recorder
        for path, tensor in tensors_in((args, kwargs)):
            same_id, same_version = before.get(path, (None, None))
            if same_id != id(tensor):
                label = ".".join([str(step.target), *map(str, path[1:])])
                step.outs.append(Out("args", path, recorder.values.new(tensor, label)))
                holders = [take((args, kwargs), path[:n]) for n in range(1, len(path))]
                recorder.values.opened.update(map(id, holders))
            elif same_version != _version(tensor):
                if id(tensor) in recorder.values.keys:
                    step.writes += (recorder.values.keys[id(tensor)],)
                    recorder.values.note_write(recorder.values.keys[id(tensor)])
                    step.writes_gradient = step.writes_gradient or tensor.requires_grad
                elif id(tensor) in recorder.values.held:
                    step.writes_held += (recorder.values.held[id(tensor)],)

    def _note_numbers(
        self, step: Step, before: dict[Any, int | float], args: Any, kwargs: Any
    ) -> None:
        """Note the numbers that a leaf set in its arguments, such as a cache's count."""
        recorder = self.recorder
        for path, number in list(numbers_in((args, kwargs))):
            if len(path) > _IN_A_CONTAINER and before.get(path) != number:
                label = ".".join([str(step.target), *map(str, path[1:])])
                key = recorder.values.new(number, label)
                if put((args, kwargs), path, traced(number, recorder, key)):
                    step.outs.append(Out("args", path, key))
                    holders = [take((args, kwargs), path[:n]) for n in range(1, len(path))]
                    recorder.values.opened.update(map(id, holders))


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _without_traced(value: Any) -> Any:
    """Return arguments with plain numbers; containers that a leaf may change stay as they are."""
    if isinstance(value, (TracedInt, TracedFloat)):
        return plain(value)
    if type(value) is tuple:
        return tuple(map(_without_traced, value))
    if type(value) is torch.Size:
        return torch.Size([plain(n) for n in value])
    return value
