"""Observe a model that has no memory: its parameters are on meta, or fake tensors."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import PartitionError
from ..loading.initial import determined
from ..loading.slots import slots as slots_of
from ..no_memory import without_memory
from .place import is_inner, told

__all__ = ["FakeRun", "run_fake"]

Result = TypeVar("Result")
Line = tuple[str, int, str]
"""A file, a line in it, and the op that it called."""

_fake_lines: WeakKeyDictionary[nn.Module, set[Line]] = WeakKeyDictionary()
"""The lines of a model that make a tensor of zeros, or the like, for values of parameters."""


def run_fake(model: nn.Module, observe: Callable[[FakeRun | None], Result]) -> Result:
    """Return ``observe(run)``, which may call the model with real inputs although it has no memory.

    Meanwhile the model's tensors on meta are fake tensors on the CPU; afterwards they are back. A
    model that is fake already keeps its mode. For a model with memory ``run`` is None. Leaves are
    to be called in ``run.leaf()``.

    What depends on inputs alone is computed for real, so glue takes the branches that it takes in
    the real model; so do modules without parameters whose buffers their initialisation determines,
    such as rotary embeddings. What depends on a parameter has no values. `observe` is called again
    where a tensor of real values (``torch.zeros``) turned out to take fake ones later, with that
    tensor fake from the start; each time the random state is that of the first.

    Raises PartitionError where the model asks for a value that depends on a parameter.
    """
    with _fake_parameters(model) as mode:
        if mode is None:
            return observe(None)
        lines = _fake_lines.setdefault(model, set())
        while True:
            run = FakeRun(mode, lines)
            try:
                with torch.random.fork_rng(devices=[]), _quiet(), run:
                    return observe(run)
            except _Written as written:
                lines.add(written.line)
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise PartitionError(
                    f"{_innermost(error)}: the model asks for a value that depends on a parameter "
                    f"({error.func}), but has no memory, so it has none; observe it with memory"
                ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging the errors of batches that the model does not take."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled


class FakeRun(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A forward whose parameters are fake and whose inputs are real."""

    def __init__(self, mode: FakeTensorMode, fake_lines: set[Line]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode, self._fake_lines = mode, fake_lines
        self._made: dict[int, Line] = {}

    @contextlib.contextmanager
    def leaf(self) -> Iterator[None]:
        """Make new tensors fake: in a leaf they mostly take values that depend on parameters."""
        with self._mode, self:
            yield

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a fake tensor in place of an input on meta."""
        return _fake(self._mode, tensor) if _on_meta(tensor) else tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            self._refuse_mixed_writes(func, args, kwargs)
            return _RULES.get(func, _as_it_is)(func, *args, **kwargs)  # type: ignore[no-untyped-call]
        if tensors:
            with unset_fake_temporarily():
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        return self._made_here(func, tensors, result)

    def _made_here(self, func: Any, tensors: list[torch.Tensor], result: Any) -> Any:
        """Remember which line made the memory of a real tensor, or make it fake."""
        line: Line | None = None
        old = {_memory(tensor) for tensor in tensors}

        def one(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal line
            if isinstance(tensor, FakeTensor) or _memory(tensor) in old:
                return tensor
            line = line or (*_line(), str(func))
            if line in self._fake_lines:
                return self._mode.from_tensor(tensor)
            self._made[_memory(tensor)] = line
            return tensor

        return pytree.tree_map_only(torch.Tensor, one, result)

    def _refuse_mixed_writes(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> None:
        """Raise where fake values go into a real tensor, which would keep its old ones."""
        if not func._schema.is_mutable:
            return
        for i, argument in enumerate(func._schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for tensor in pytree.tree_leaves(value):
                if isinstance(tensor, torch.Tensor) and not isinstance(tensor, FakeTensor):
                    made = self._made.get(_memory(tensor))
                    if made is not None and made not in self._fake_lines:
                        raise _Written(made)
                    file, number = _line()
                    raise PartitionError(
                        f"{told(file, number)}: {func} writes a value that depends on a parameter "
                        f"into an input or a buffer, but the model has no memory, so the value is "
                        f"unknown; write into a copy, or observe the model with memory"
                    )


class _Written(BaseException):
    """A tensor of real values takes fake ones; not for the model's own ``except Exception``."""

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self.line = line


@contextlib.contextmanager
def _fake_parameters(model: nn.Module) -> Iterator[FakeTensorMode | None]:
    slots = list(_slots(model))
    modes = {t.fake_mode for *_, t in slots if isinstance(t, FakeTensor)}
    if not any(without_memory(tensor) for *_, tensor in slots):
        yield None
        return
    if len(modes) > 1:
        raise ValueError(
            "the model's fake tensors are of several FakeTensorModes; build all of it under one"
        )
    mode = modes.pop() if modes else FakeTensorMode()
    allowed, mode.allow_non_fake_inputs = mode.allow_non_fake_inputs, True
    stand_ins = {id(t): value for t, value in _known_buffers(model, slots)}
    for holder, name, tensor in slots:
        if _on_meta(tensor) and id(tensor) not in stand_ins:
            stand_ins[id(tensor)] = _fake(mode, tensor)
        holder[name] = stand_ins.get(id(tensor), tensor)
    try:
        yield mode
    finally:
        mode.allow_non_fake_inputs = allowed
        for holder, name, tensor in slots:
            holder[name] = tensor


def _known_buffers(
    model: nn.Module, slots: list[tuple[dict[str, Any], str, torch.Tensor]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the buffers of modules that have nothing else, no state either, with their values."""
    modules = [
        module
        for module in model.modules()
        if next(module.parameters(), None) is None
        and next(module.buffers(), None) is not None
        and not module.state_dict()
    ]
    todo = [slot for module in modules for slot in slots_of(module) if without_memory(slot.tensor)]
    with contextlib.suppress(ValueError):  # the model cannot compute them: they are fake too
        for slot, value in determined(model, todo, torch.device("cpu")):
            if value is not None:
                yield slot.tensor, value


def _fake(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor on the CPU over the memory of one on meta."""
    with unset_fake_temporarily():  # in the mode it would be a fake one, on meta
        memory = tensor.detach()
    with mode:
        fake = FakeTensor(mode, memory, torch.device("cpu"))
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, tensor.requires_grad)
        return fake.requires_grad_(tensor.requires_grad)


def _slots(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    for module in model.modules():
        for holder in (module._parameters, module._buffers, vars(module)):
            for name, value in list(holder.items()):
                if isinstance(value, torch.Tensor):
                    yield holder, name, value


def _on_meta(tensor: torch.Tensor) -> bool:
    return tensor.is_meta and not isinstance(tensor, FakeTensor)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _line() -> tuple[str, int]:
    """Return the file and line of the innermost call of the model, or of its caller."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_inner(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _innermost(error: BaseException) -> str:
    """Return the line of the model's code, or that of its caller, from which an error came."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_inner(frame.filename)]
    return told(own[-1].filename, own[-1].lineno or 0) if own else "the model"


def _as_it_is(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _grouped_mm(
    func: Any, one: Any, two: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Any:
    """Give the shape alone: torch's fake kernel takes bfloat16 only, and few strides."""
    groups = [len(offs)] if offs is not None and one.dim() == two.dim() == 2 else []
    groups += [len(one)] if one.dim() == two.dim() == 3 else []
    return one.new_empty([*groups, one.shape[-2], two.shape[-1]], dtype=out_dtype or one.dtype)


def _index(func: Any, values: Any, indices: Any) -> Any:
    """A mask of known values selects a known number of items."""
    known: list[Any] = []
    for index in indices:
        if isinstance(index, FakeTensor) or index is None or index.dtype is not torch.bool:
            known.append(index)
        else:
            with unset_fake_temporarily():
                known += index.nonzero(as_tuple=True)
    return func(values, known)


_RULES: dict[Any, Callable[..., Any]] = {torch.ops.aten.index.Tensor: _index}
if hasattr(torch.ops.aten, "_grouped_mm"):
    _RULES[torch.ops.aten._grouped_mm.default] = _grouped_mm
