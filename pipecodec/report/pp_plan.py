"""Compares the pipeline plan of a transformers model with the values that its layers take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..stages.partition import Partition
from .crossings import Leaf
from .facts import Crossing, Problem

__all__ = ["LayerCalls", "omitted_by_plan", "watched_layers"]

Plan = dict[str, Sequence[Sequence[str]]]
"""The name of a module or list of modules: (the values it takes, the values it gives)."""


@dataclass
class LayerCalls:
    """The tensors that a stage's planned layers were called with."""

    layer: str
    """The name of the first one."""
    planned: list[str]
    """The arguments that the plan gives it."""
    taken: dict[str, None] = field(default_factory=dict)
    """The arguments of the first one that hold tensors."""
    tensors: set[int] = field(default_factory=set)
    """Ids of all tensors in arguments of any of them."""


@contextmanager
def watched_layers(part: Partition) -> Iterator[dict[int, LayerCalls]]:
    """Give, by stage, the calls of the layers that the model's plan names, while stages run."""
    calls: dict[int, LayerCalls] = {}
    plan = _plan_of(part)
    with ExitStack() as hooks:
        for k, stage in enumerate(part.stages):
            for name, module in stage.named_modules():
                planned = _planned(plan, name)
                if planned is not None:
                    watch = _Watch(calls, k, LayerCalls(name, planned))
                    handle = module.register_forward_pre_hook(watch, with_kwargs=True)
                    hooks.callback(handle.remove)
        yield calls


class _Watch:
    def __init__(self, calls: dict[int, LayerCalls], stage: int, call: LayerCalls) -> None:
        self.calls, self.stage, self.call = calls, stage, call

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        signature = inspect.signature(module.forward)
        try:
            bound = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError:  # the forward itself will raise it
            return
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                bound |= bound.pop(parameter.name, {})
        first = self.calls.setdefault(self.stage, self.call)
        for name, value in bound.items():
            found = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
            first.tensors.update(map(id, found))
            if found and first is self.call:
                first.taken[name] = None


def omitted_by_plan(
    calls: Mapping[int, LayerCalls], crossings: Sequence[Sequence[tuple[Crossing, Leaf]]]
) -> Iterator[Problem]:
    """Yield a problem for each stage whose layers take, or pass by, more than the plan hands on."""
    for k, pairs in enumerate(crossings, 1):
        if k not in calls:
            continue
        call = calls[k]
        missing = [name for name in call.taken if name not in call.planned]
        beside = [
            crossing.name
            for crossing, leaf in pairs
            if crossing.made_by is not None
            and leaf.received is not None
            and id(leaf.received) not in call.tensors
        ]
        if len(beside) == len(pairs):  # the stage computes its layers' input from these
            beside = []
        missing += [name for name in dict.fromkeys(beside) if name not in call.planned]
        if missing:
            yield Problem.warning(
                k,
                f"the model's pp_plan hands on {', '.join(call.planned)}, but {call.layer} and "
                f"later layers or the output need {', '.join(missing)} too",
                "do not split the model by that plan; these stages hand on all of them",
            )


def _plan_of(part: Partition) -> Plan:
    plan: Plan = {}
    for stage in part.stages:
        for module in stage.modules():
            for found in (
                getattr(getattr(module, "config", None), "base_model_pp_plan", None),
                getattr(module, "_pp_plan", None),
            ):
                plan |= found if isinstance(found, Mapping) else {}
    return plan


def _planned(plan: Plan, name: str) -> list[str] | None:
    """Return the arguments that the plan gives to the layers of a list, None for other modules."""
    for key, (takes, _) in plan.items():
        if re.search(rf"(^|\.){re.escape(key)}\.\d+$", name):
            return list(takes)
    return None
