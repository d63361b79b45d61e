"""Optimizers, and the ways in which parameter groups over a whole model are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["OPTIMIZERS", "given", "groups_of", "rates"]

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
}


def groups_of(parameters: Iterable[Any], empty: bool = True) -> list[dict[str, Any]]:
    """Return groups by decay; without ``empty`` none that has no parameter."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": 0.3, "kind": "matrices"},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0, "lr": 0.05},
    ]
    return [group for group in groups if group["params"] or empty]


def rates(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a schedule with another rate for each group."""
    each = [lambda step: 1 / (1 + step), lambda step: 1 + step]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, each[: len(optimizer.param_groups)])


def given(optimizer: str, grouped: str, stages: nn.ModuleList) -> dict[str, Any]:
    """Return the arguments of ``initialize`` to train with; ``grouped`` is a way to give groups."""
    make = OPTIMIZERS[optimizer]
    trained = [p for p in stages.parameters() if p.requires_grad]
    names = {p: name for name, p in stages.named_parameters()}

    def by_name(parameters: Any) -> torch.optim.Optimizer:
        assert all(parameter in names for parameter in parameters)
        return make(groups_of(parameters))

    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "": lambda: {"optimizer": make},
        "function": lambda: {"optimizer": by_name, "lr_scheduler": rates},
        "function without empty groups": lambda: {
            "optimizer": lambda parameters: make(groups_of(parameters, empty=False)),
            "lr_scheduler": rates,
        },
        "function of the whole model": lambda: {
            "optimizer": lambda _: make(groups_of(trained)),
            "lr_scheduler": rates,
        },
        "groups": lambda: {
            "optimizer": make,
            "model_parameters": iter(groups_of(trained)),
            "lr_scheduler": rates,
        },
        "groups with names": lambda: {
            "optimizer": make,
            "model_parameters": [
                {**group, "params": ((names[p], p) for p in group["params"])}
                for group in groups_of(trained)
            ],
            "lr_scheduler": rates,
        },
        "groups for the configuration": lambda: {
            "optimizer": None,
            "model_parameters": groups_of(trained),
            "lr_scheduler": rates,
        },
    }
    if grouped == "object":
        made = make(groups_of(trained))
        return {"optimizer": made, "lr_scheduler": rates(made)}
    return ways[grouped]()
