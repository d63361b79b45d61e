"""Random stages of tensors: shared under two names, in containers, written into, used or not.

All numbers are small integers, so that sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import pipecodec

__all__ = ["TensorStages", "tensor_stages"]

WIDTH = 3


@dataclass(frozen=True)
class Work:
    """One step of a stage: ``kind`` on the values ``sources``; ``makes`` names its result."""

    kind: str
    makes: str
    sources: tuple[str, ...]
    factor: int


@dataclass(frozen=True)
class Spec:
    takes: tuple[str, ...]
    optional: frozenset[str]
    works: tuple[Work, ...]
    gives: tuple[str, ...]
    declared: bool


class Worker(nn.Module):
    """Does the works of a stage, and notes its arguments with their aliases."""

    def __init__(self, spec: Spec, index: int, calls: list[Any]) -> None:
        super().__init__()
        self.spec, self.index, self.calls = spec, index, calls
        self.weights = nn.ParameterList(
            torch.full((WIDTH,), 1.0 + (index + i) % 2) for i in range(len(spec.works))
        )

    def work(self, **given: Any) -> dict[str, Any]:
        env = {name: value for name, value in given.items() if value is not Worker}
        self.calls.append((self.index, noted(env)))
        for work, weight in zip(self.spec.works, self.weights, strict=True):
            sources = [env[name] for name in work.sources if name in env]
            if work.kind == "write":
                for leaf in distinct(sources):
                    leaf.add_(weight.to(leaf.dtype) * work.factor)
            else:
                env[work.makes] = made(work, sources, weight)
        return {name: env[name] for name in self.spec.gives}

    def loss(self, **given: Any) -> torch.Tensor:
        self.work(**given)
        leaves = floats(distinct(list(given.values())))
        return sum((leaf.sum() * (2 + i) for i, leaf in enumerate(leaves)), torch.zeros(()))


def made(work: Work, sources: list[Any], weight: nn.Parameter) -> Any:
    leaves = distinct(sources)
    if work.kind == "sum":
        total = weight * work.factor
        for position, leaf in enumerate(leaves):
            total = total + leaf * (1 + position)
        return total
    if work.kind == "product":
        return sum((leaf * weight for leaf in leaves), weight * 0)
    if work.kind == "alias":
        return sources[0] if sources else None
    if work.kind == "box":
        return {"n": work.factor, "none": None, "values": list(sources)}
    if work.kind == "integers":
        return torch.arange(1024) + work.factor  # in a tensor of its own
    return weight if work.kind == "parameter" else None


def distinct(values: list[Any]) -> list[torch.Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return [leaf for leaf in {id(leaf): leaf for leaf in leaves}.values() if leaf.numel() == WIDTH]


def floats(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def noted(env: Mapping[str, Any]) -> str:
    """Return the values as text, with a number for each tensor object."""
    numbers: dict[int, int] = {}

    def note(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            number = numbers.setdefault(id(leaf), len(numbers))
            return (number, str(leaf.dtype), leaf.requires_grad, leaf.tolist())
        return leaf

    return repr(pytree.tree_map(note, dict(sorted(env.items()))))


@dataclass(frozen=True)
class TensorStages:
    inputs: tuple[str, ...]
    specs: tuple[Spec, ...]

    def partition(self) -> tuple[pipecodec.Partition, list[Any]]:
        """Return the stages, and the list that gets their calls."""
        calls: list[Any] = []
        last = len(self.specs) - 1
        stages = []
        for index, spec in enumerate(self.specs):
            required = [name for name in spec.takes if name not in spec.optional]
            optional = [f"{name}=Worker" for name in spec.takes if name in spec.optional]
            method = "loss" if index == last else "work"
            source = (
                f"class Made(Worker):\n"
                f"    def forward(self, {', '.join(required + optional)}):\n"
                f"        return self.{method}({', '.join(f'{n}={n}' for n in spec.takes)})\n"
            )
            room: dict[str, Any] = {"Worker": Worker}
            exec(source, room)
            stages.append(room["Made"](spec, index, calls))
        outputs = [list(spec.gives) if spec.declared else None for spec in self.specs]
        return pipecodec.partition_modules(stages, self.inputs, outputs), calls

    def batch(self, number: int, given: int) -> dict[str, torch.Tensor]:
        """Return a batch with as many of the inputs as ``given``, at least one."""
        named = self.inputs[: max(1, given)]
        return {name: torch.arange(3.0) + i + number for i, name in enumerate(named)}


KINDS = ["sum", "product", "alias", "box", "integers", "parameter", "none", "write"]


@st.composite
def tensor_stages(draw: st.DrawFn, *, plain: bool = False) -> TensorStages:
    """Draw stages; ``plain`` ones make sums only, and declare their outputs."""
    kinds = ["sum"] if plain else KINDS
    inputs = tuple(f"input{i}" for i in range(draw(st.integers(1, 2))))
    known = list(inputs)
    specs = []
    for index in range(draw(st.integers(3, 6))):
        takes = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        optional = set() if plain else draw(st.sets(st.sampled_from(takes)))
        works = []
        for number in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(kinds))
            sources = draw(st.lists(st.sampled_from(takes), min_size=1, max_size=2, unique=True))
            fresh = f"made{index}{number}"
            makes = draw(st.sampled_from([fresh, fresh, *known]))
            works.append(Work(kind, makes, tuple(sources), draw(st.integers(1, 3))))
        gives = dict.fromkeys(work.makes for work in works if work.kind != "write")
        specs.append(
            Spec(
                tuple(takes),
                frozenset(optional),
                tuple(works),
                tuple(gives),
                plain or draw(st.booleans()),
            )
        )
        known = list(dict.fromkeys([*known, *gives]))
    return TensorStages(inputs, tuple(specs))
