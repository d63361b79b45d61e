"""Tells which values cross the middle of a model, and how many bytes, beside a naive wrapper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import pipecodec

from .build import build
from .compare import facts, run_detached

__all__ = ["SHOWN", "SIZE", "Crossing", "crossing"]

SHOWN = [
    *(
        ("causal-lm", name)
        for name in (
            "llama",
            "mixtral",
            "gemma2",
            "gemma3n_text",
            "gemma4_text",
            "deepseek_v3",
            "deepseek_v4",
            "glm_moe_dsa",
            "hy_v4",
            "qwen3_next",
            "nemotron_h",
            "gpt_oss",
        )
    ),
    ("seq2seq", "t5"),
    ("image-text-to-text", "llava"),
]
SIZE = (2, 30)


@dataclass(frozen=True)
class Crossing:
    """The values of one boundary as text, their bytes, and a naive wrapper's bytes."""

    values: list[str]
    nbytes: int
    naive: int


def crossing(mapping: str, model_type: str) -> Crossing:
    """Cut a model in 4 stages and return the values that cross the second cut."""
    case = build(mapping, model_type)
    inputs = case.inputs(*SIZE, 1, True)
    part = pipecodec.partition(case.model, kwargs=inputs, n_stages=4)
    assert part.cut is not None
    seen: dict[int, Mapping[str, Any]] = {}
    run_detached(part, case.model, inputs, seen.__setitem__)
    values = seen[1]
    return Crossing(
        [f"{name} {shown(value)}" for name, value in values.items()],
        sum(nbytes(value) for value in values.values()),
        naive_bytes(case.model, part.cut.split[1], inputs),
    )


def naive_bytes(model: torch.nn.Module, split: str, inputs: Mapping[str, Any]) -> int:
    """Return the bytes of all that the first layer of the list that is cut is called with."""
    layers = model.get_submodule(split.rpartition(".")[0])
    first = next(layers.children())
    called: list[int] = []
    with first.register_forward_pre_hook(
        lambda _, args, kwargs: called.append(nbytes([*args, *kwargs.values()])), with_kwargs=True
    ):
        model(**inputs)
    return called[0]


def tensors_in(value: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def nbytes(value: Any) -> int:
    """Return the bytes of all tensors in a value, and 8 for a number."""
    if isinstance(value, int | float):
        return 8
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors_in(value))


def shown(value: Any) -> str:
    """Return dtypes and shapes; "+g" for a value with a gradient."""
    if isinstance(value, torch.Tensor):
        return facts(value) + ("+g" if value.requires_grad else "")
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(shown, value))})"
    return type(value).__name__
