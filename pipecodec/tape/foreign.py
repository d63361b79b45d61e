"""Refuses leaves that read tensors which another rank would not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import PartitionError
from .kept import contents, mutables_in, step_to
from .place import place
from .recorder import Recorder
from .structure import tensors_in
from .tape import Method, Step
from .writing import written_by

__all__ = ["Foreign"]


class Foreign:
    """Knows which call made each tensor inside a leaf."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.owner: Any = WeakIdKeyDictionary()  # a tensor made inside a leaf -> the call

    def reading(self, step: Step, module: nn.Module, arguments: Any) -> Reading:
        """Return the watch over one call of a leaf."""
        return Reading(self, step, module, {id(tensor) for _, tensor in tensors_in(arguments)})


class Reading:
    """Watches the tensors that one call of a leaf reads.

    A tensor that another leaf or glue made has to be among its arguments: in an attribute, a
    container, a closure or a global it would be missing on another rank, or be an earlier one.
    """

    def __init__(self, foreign: Foreign, step: Step, module: nn.Module, given: set[int]) -> None:
        self._foreign, self._step, self._module = foreign, step, module
        self._given = given
        tensors = (t for m in module.modules() for _, t in tensors_in(dict(vars(m))))
        self._own = {id(tensor) for tensor in tensors}

    def watch(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call a torch function inside the leaf; raise if it reads a foreign tensor."""
        values, step = self._foreign.recorder.values, self._step
        for _, tensor in tensors_in((args, kwargs)):
            self._check(tensor)
            if isinstance(step.target, Method) and id(tensor) in self._own | self._given:
                needed = values.held.get(id(tensor))
                step.needs += () if needed is None else (needed,)
        for _, tensor in tensors_in(written_by(function, args, kwargs)):
            held = values.held_by_memory(tensor)
            if held is not None and held not in step.writes_held:
                step.writes_held += (held,)
        result = function(*args, **kwargs)
        for _, tensor in tensors_in(result):
            if id(tensor) not in self._given and id(tensor) not in self._own:
                self._foreign.owner[tensor] = step
        return result

    def check(self, results: Any) -> None:
        """Raise if a leaf returns a foreign tensor, or puts one into its arguments."""
        for _, tensor in tensors_in(results):
            self._check(tensor)

    def _check(self, tensor: torch.Tensor) -> None:
        step, values = self._step, self._foreign.recorder.values
        if id(tensor) in self._given:
            return
        owner, held = self._foreign.owner.get(tensor), values.held.get(id(tensor))
        if owner is step or (id(tensor) in self._own and held is not None):
            return
        if owner is not None and owner.target == step.target:
            name = str(step.target)  # its own earlier call, which has to be in the same stage
            step.writes_held += () if name in step.writes_held else (name,)
        elif owner is not None:
            raise self._missing(tensor, "a tensor", f" that {owner.target} made")
        elif id(tensor) in values.keys:
            raise self._missing(tensor, self._foreign.recorder.tape.names[values.keys[id(tensor)]])
        elif held is not None and isinstance(tensor, nn.Parameter):
            raise PartitionError(
                f"{step.target} reads {held} at {place()}, which is not its own, so it would not "
                f"be there on another rank; pass it, or give it to the module under a name"
            )

    def _missing(self, tensor: torch.Tensor, name: str, maker: str = "") -> PartitionError:
        road = self._attribute(tensor)
        kept = f" (but by way of {road})" if road else ""
        return PartitionError(
            f"{self._step.target} reads {name} at {place()}{maker}, but not through its arguments"
            f"{kept}, so it would not be there on another rank; pass it"
        )

    def _attribute(self, tensor: torch.Tensor) -> str | None:
        for name, module in self._module.named_modules(prefix=str(self._step.target)):
            for path, value in [("", module), *mutables_in(contents(module))]:
                for key, item in contents(value):
                    if item is tensor:
                        return f"{name}{path}{step_to(value, key)}"
        return None
