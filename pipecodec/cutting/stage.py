"""A stage that was cut from a model: the model's own modules, and the code that calls them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import PartitionError
from ..tape.arguments import modules_of, tensors_of
from ..tape.structure import copied
from ..tape.tape import Method, Step
from .code import Code
from .dispatch import OBSERVATION, choosing, dispatching
from .run_time import BOTH

__all__ = ["CutStage", "StageCode", "make_stage", "place", "place_used"]


@dataclass(frozen=True, eq=False)
class Way:
    """The code for the batches that are like one observation."""

    run: Code
    takes: list[str]
    gives: list[str]
    training: bool | None
    """The mode of the observation; None: it is good for both."""
    like: Code | None = None
    """On the first stage of several ways: guards that inputs alone decide."""
    asks: tuple[tuple[str, bool], ...] = ()
    """The inputs that ``like`` takes, and whether it writes into them."""
    absent: tuple[str, ...] = ()
    """The inputs of other observations that this one was not given."""


@dataclass(frozen=True, eq=False)
class StageCode:
    """All that a stage's forward is made of."""

    number: int
    ways: list[Way]
    required: list[str]
    optional: list[str]
    gives: list[str] | None
    """The names of the values that it gives; None: it returns the model's result."""
    repeatable: bool = False
    """Whether the stage can be run again: it writes into no buffer and no input."""

    def __deepcopy__(self, memo: Any) -> StageCode:
        return self


class CutStage(nn.Module):
    """Leaves of the model under their own names; ``forward`` names the values that it takes.

    Returns a dict of values by name; the last stage returns the model's output. Raises
    PartitionError for a batch that takes a way which was not observed.
    """

    code: StageCode
    runs: list[Any]
    leaves: tuple[nn.Module, ...]

    @property
    def mode(self) -> bool:
        """Whether the stage trains.

        Its leaves are the model's own, and someone may have called ``model.eval()``: where all
        leaves say so, the stage follows.
        """
        if self.leaves and self.leaves[0].training is not self.training:
            modes = {leaf.training for leaf in self.leaves}
            if len(modes) == 1:
                self.train(modes.pop())
        return self.training

    @property
    def device(self) -> torch.device:
        """The device of the stage's first tensor."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __reduce__(self) -> Any:
        return _remake, (self.code,), self.__dict__


class ManyWays(CutStage):
    """A stage of a model of which several kinds of batch were observed."""

    likes: list[Any]

    def run(self, values: dict[str, Any]) -> Any:
        """Run the way of the observation that the inputs are like; the first stage does so."""
        which, result = self.try_ways(values)
        gives = self.code.gives
        if gives is None:
            return result
        return dict.fromkeys(gives) | result | {OBSERVATION: which}

    def run_way(self, which: int, values: dict[str, Any]) -> Any:
        """Run this stage for a batch that is like observation `which`."""
        way = self.code.ways[which]
        return self.runs[which](self, *(values[name] for name in way.takes))

    def try_ways(self, values: dict[str, Any]) -> tuple[int, Any]:
        """Return the number of the observation that the batch is like, and this stage's result.

        Where inputs alone do not tell, the stage is run again, with the same random numbers, until
        all guards hold.
        """
        likely, reasons = self.choose(values)
        for which in likely:
            last = which == likely[-1] or not self.code.repeatable
            devices = () if last else self._cuda_devices()
            try:
                with nullcontext() if last else _random_state_on_error(devices):
                    return which, self.run_way(which, values)
            except PartitionError as error:
                reasons.append(_reason(error))
                if not self.code.repeatable:
                    break
        dtypes = any(".to(torch." in reason for reason in reasons)
        remedy = "If the model takes it as it is, pass such" if dtypes else "Pass such"
        raise PartitionError(
            f"the batch is like none of the {len(self.code.ways)} that were observed: "
            f"{'; '.join(dict.fromkeys(reasons))}. {remedy} a batch in examples= to "
            f"pipecodec.partition"
        )

    def choose(self, values: dict[str, Any]) -> tuple[list[int], list[str]]:
        """Return the observations that the inputs are like, and why they are not like others."""
        likely, reasons, mode = [], [], self.mode
        for i, way in enumerate(self.code.ways):
            if way.training not in (None, mode):
                reasons.append(f"observed in {'training' if way.training else 'evaluation'}")
                continue
            if given := [name for name in way.absent if values.get(name) is not None]:
                reasons.append(f"observed without the input {given[0]!r}")
                continue
            try:
                asked = (copied(values[n], {}) if own else values[n] for n, own in way.asks)
                self.likes[i](self, *asked)
            except PartitionError as error:
                reasons.append(_reason(error))
            except Exception as error:  # an operation of another kind of batch
                reasons.append(f"{type(error).__name__}: {error}")
            else:
                likely.append(i)
        return likely, reasons

    def _cuda_devices(self) -> tuple[torch.device, ...]:
        device = self.device
        return (device,) if device.type == "cuda" else ()


def _reason(error: PartitionError) -> str:
    return str(error).split(BOTH)[0].split("; pass such")[0]


@contextmanager
def _random_state_on_error(devices: Sequence[torch.device]) -> Iterator[None]:
    """Put the random states back if the body raises."""
    state = torch.get_rng_state()
    states = [torch.cuda.get_rng_state(device) for device in devices]
    try:
        yield
    except PartitionError:
        torch.set_rng_state(state)
        for device, one in zip(devices, states, strict=True):
            torch.cuda.set_rng_state(one, device)
        raise


def _remake(code: StageCode) -> CutStage:
    cls = _class_of(code)
    return cls.__new__(cls)


def _class_of(code: StageCode) -> type[CutStage]:
    """Return a class whose forward has the parameters of this stage."""
    runs = [way.run.function() for way in code.ways]
    members: dict[str, Any] = {"code": code, "runs": runs}
    if len(code.ways) == 1:
        members["forward"] = runs[0]
        return type(f"Stage{code.number}", (CutStage,), members)
    members["likes"] = [way.like.function() if way.like else None for way in code.ways]
    takes = [way.takes for way in code.ways]
    if code.number == 0:
        members["forward"] = choosing(code.required, code.optional).function()
    else:
        absent = None
        if code.gives is not None:
            absent = [[n for n in code.gives if n not in way.gives] for way in code.ways]
        members["forward"] = dispatching(code.required, code.optional, takes, absent).function()
    return type(f"Stage{code.number}", (ManyWays,), members)


def make_stage(model: nn.Module, code: StageCode, steps: Sequence[Step]) -> CutStage:
    """Return a stage that holds all that `steps` use of the model, under the model's names."""
    stage = _class_of(code)()
    stage.training = model.training
    place_used(stage, model, steps)
    root = _shell(model)
    root.__dict__["_modules"] = stage._modules
    root.__dict__["_parameters"] = stage._parameters
    root.__dict__["_buffers"] = stage._buffers
    stage.__dict__["root"] = root  # for methods of the model itself; no child
    called = (step.target for step in steps if isinstance(step.target, str))
    names = dict.fromkeys(name for name in called if not isinstance(name, Method))
    stage.leaves = tuple(stage.get_submodule(str(name)) for name in names)
    return stage


def place_used(stage: nn.Module, model: nn.Module, steps: Iterable[Step]) -> None:
    """Put the modules and tensors that `steps` use into a stage."""
    modules, tensors = dict[str, None](), dict[str, None]()
    for step in steps:
        if isinstance(step.target, Method):
            for name in step.needs:
                (tensors if _is_tensor(model, name) else modules)[name] = None
            owner = step.target.rpartition(".")[0]
            _containers(stage, model, owner.split(".") if owner else [])
        elif isinstance(step.target, str):
            modules[step.target] = None
        modules.update(dict.fromkeys(modules_of(step.args)))
        tensors.update(dict.fromkeys(tensors_of(step.args)))
    for name in sorted(modules, key=len):
        place(stage, model, name)
    for name in tensors:
        place(stage, model, name)


def place(stage: nn.Module, model: nn.Module, name: str) -> None:
    """Put a module or a tensor of the model into a stage, under its own name."""
    *above, leaf = name.split(".")
    holder = _containers(stage, model, above)
    owner = model.get_submodule(".".join(above))
    value = getattr(owner, leaf)
    if isinstance(value, nn.Module):
        holder._modules.setdefault(leaf, value)
    elif leaf in holder._parameters or leaf in holder._buffers:
        return
    elif isinstance(value, nn.Parameter):
        holder.register_parameter(leaf, value)
    else:
        holder.__dict__.pop(leaf, None)
        kept = leaf in owner._buffers and leaf not in owner._non_persistent_buffers_set
        holder.register_buffer(leaf, value, persistent=kept)


def _containers(stage: nn.Module, model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return the module of this name, made of shells where the stage lacks it."""
    holder = stage
    for i, name in enumerate(names):
        if name not in holder._modules:
            holder._modules[name] = _shell(model.get_submodule(".".join(names[: i + 1])))
        child = holder._modules[name]
        if child is None:
            raise PartitionError(f"{'.'.join(names)} is no module of the model")
        holder = child
    return holder


def _shell(module: nn.Module) -> nn.Module:
    """Return a copy of a module without its children, parameters and buffers."""
    new = object.__new__(type(module))
    for name, value in vars(module).items():
        if not (isinstance(value, torch.Tensor) and value.requires_grad):  # of an earlier forward
            new.__dict__[name] = value
    new.__dict__.update(_modules={}, _parameters={}, _buffers={})
    new.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    return new


def _is_tensor(model: nn.Module, name: str) -> bool:
    prefix, _, leaf = name.rpartition(".")
    return leaf not in model.get_submodule(prefix)._modules
