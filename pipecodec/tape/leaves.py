"""Sends calls of leaves (modules, and methods as a whole) to the recorder while it observes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .leaf_calls import Leaves
from .recorder import Recorder
from .tape import Forward, Method

__all__ = ["intercepted"]

_one_at_a_time = threading.RLock()


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
    recorder.at_end = calls.finish
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
