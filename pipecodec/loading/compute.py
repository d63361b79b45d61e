"""Computes initial values of tensors as the model's own modules do."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..no_memory import without_memory
from .slots import Slot, slots

__all__ = ["compute"]


def compute(
    model: nn.Module,
    targets: Sequence[Slot],
    device: torch.device,
    *,
    seed: int,
    fill: Callable[[torch.Tensor], float],
) -> list[torch.Tensor]:
    """Return new tensors for ``targets``, as the initialisation of the model's modules fills them.

    A module is initialised by ``reset_parameters``, as its constructor did, and then by the method
    ``_init_weights`` of the innermost model around it that has one (transformers, and models that
    do alike); children come before their parents. A module that the model lacks is initialised
    alone. Meanwhile no other parameter has memory, so none is written to. Tensors begin as ``fill``
    says, so that one which nothing writes to can be told.

    Each random operation is seeded by ``seed``, the name of the module that is initialised and the
    number of random operations that its initialisation made before. So values depend neither on
    the other targets nor on the stage.
    """
    owners = {id(slot.module): slot for slot in targets}
    inside = {id(module) for module in model.modules()}
    alone = [slot for module, slot in owners.items() if module not in inside]
    places = [*slots(model), *(place for slot in alone for place in slots(slot.module))]
    with _put_back(places) as held:
        stand_ins: dict[int, torch.Tensor] = {}
        for slot, tensor in held:
            if id(tensor) not in stand_ins:
                stand_ins[id(tensor)] = _stand_in(tensor)
            slot.put(stand_ins[id(tensor)])
        for slot in targets:
            slot.put(_empty(slot.tensor, device, fill))
        random = _Seeded(seed, device)
        with _random_state(device), torch.no_grad(), random:
            _initialise_all(model, "", None, owners, random)
            for slot in alone:
                name = slot.path.rpartition(".")[0]
                _initialise(slot.module, f"stage.{name}", _with_weights(slot.module, None), random)
        return [slot.tensor for slot in targets]


def _initialise_all(
    module: nn.Module, name: str, model: Any, owners: Container[int], random: _Seeded
) -> bool:
    """Initialise a module if it or one in it holds a target; return whether it does."""
    model = _with_weights(module, model)
    holds = id(module) in owners
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}".lstrip(".")
        holds = _initialise_all(child, path, model, owners, random) or holds
    if holds:
        _initialise(module, name, model, random)
    return holds


def _with_weights(module: nn.Module, model: Any) -> Any:
    """Return the module if it initialises all modules in it, or else the model around it."""
    method = getattr(module, "_init_weights", None)
    if callable(method) and len(inspect.signature(method).parameters) == 1:
        return module
    return model


def _initialise(module: nn.Module, name: str, model: Any, random: _Seeded) -> None:
    random.begin(name)
    try:
        for method in ("reset_parameters", "_reset_parameters"):
            if callable(getattr(module, method, None)):
                getattr(module, method)()
        if model is not None:
            model._init_weights(module)
    except Exception as error:
        raise ValueError(
            f"initialising {name or 'the model'} ({type(module).__name__}) with only this stage's "
            f"tensors in memory fails: {type(error).__name__}: {error}"
        ) from error


class _Seeded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Seeds every random operation by the module that is initialised and its number there."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed, self._device = seed, device
        self.begin("")

    def begin(self, module: str) -> None:
        self._module, self._count = module, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            text = f"{self._seed} {self._module} {self._count}"
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            seed = int.from_bytes(digest, "little") >> 1
            torch.default_generator.manual_seed(seed)
            if self._device.type != "cpu":
                torch.get_device_module(self._device).manual_seed(seed)
            self._count += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _put_back(places: list[Slot]) -> Iterator[list[tuple[Slot, torch.Tensor]]]:
    held = [(slot, slot.tensor) for slot in places]
    try:
        yield held
    finally:
        for slot, tensor in held:
            slot.put(tensor)


@contextlib.contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    kind = "cuda" if device.type == "cpu" else device.type
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=kind):
        yield


def _stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be written to in another's place."""
    if isinstance(tensor, nn.Parameter) or without_memory(tensor):
        empty = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(empty, tensor.requires_grad)
        return empty
    return tensor.clone()


def _empty(
    like: torch.Tensor, device: torch.device, fill: Callable[[torch.Tensor], float]
) -> torch.Tensor:
    new = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    new.fill_(fill(new))
    return nn.Parameter(new, like.requires_grad) if isinstance(like, nn.Parameter) else new
