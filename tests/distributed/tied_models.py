"""Models whose stages share weights, and how they are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .engines import loss_fn
from .tied_words import VARIANTS, Words, words_stages

__all__ = ["VOCABULARY", "WIDTH", "Model", "Toy", "build_tied", "cut", "loss_of"]

WIDTH, VOCABULARY = 8, 256

Model = str | tuple[str, ...]
"""One of the demo's, "t5", one of ``VARIANTS``, or for each stage the names of the weights it uses,
in brackets if it holds them without using them: the same name is the same weight."""


class Stage(nn.Module):
    def __init__(self, shared: Mapping[str, nn.Parameter], used: list[str], last: bool) -> None:
        super().__init__()
        self.own = nn.Linear(WIDTH, 3 if last else WIDTH)
        self.used, self.last = used, last
        for name, parameter in shared.items():
            self.register_parameter(name, parameter)

    def forward(self, hidden: Tensor) -> Any:
        for name in self.used:
            hidden = torch.tanh(hidden @ self.get_parameter(name))
        return self.own(hidden) if self.last else {"hidden": self.own(hidden).tanh()}


class Toy(nn.Module):
    """Stages one after the other."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        super().__init__()
        names = sorted({name.strip("()") for stage in stages for name in stage.split()})
        shared = {name: nn.Parameter(torch.randn(WIDTH, WIDTH) / 3) for name in names}
        self.stages = nn.ModuleList(
            Stage(
                {n: shared[n] for n in names if n in stage},
                [n for n in stage.split() if n in names],
                last=position == len(stages),
            )
            for position, stage in enumerate(stages, 1)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        for stage in self.stages:
            output = stage(hidden)
            hidden = output if stage.last else output["hidden"]
        return hidden


def build_tied(model: Model, *, frozen: bool = False) -> nn.Module:
    """Return the whole model; a frozen one trains only the weights of a single stage."""
    if model == "t5":
        from .t5 import build_t5

        return build_t5(VOCABULARY, tied=True)
    if model in VARIANTS:
        torch.manual_seed(3)
        return Words(str(model))
    if isinstance(model, str):
        from pipecodec.demo.models import build_model

        return build_model(model, tied=True)
    torch.manual_seed(3)
    toy = Toy(model)
    for name, parameter in toy.named_parameters():
        parameter.requires_grad_(not frozen or "own" in name)
    return toy


def cut(model: Any, stages: int) -> list[nn.Module]:
    if isinstance(model, Toy):
        return list(model.stages)
    if isinstance(model, Words):
        return words_stages(model)
    if type(model).__name__.startswith("T5"):
        from .t5 import t5_stages

        return t5_stages(model, stages)
    from pipecodec.demo.by_hand import cut_into_stages

    return cut_into_stages(model, stages)


def loss_of(model: Model) -> Callable[[Any, Any], Tensor]:
    """Return the loss of the model's output and labels."""
    if model == "t5" or model in VARIANTS:
        return by_token
    if isinstance(model, str):
        from pipecodec.demo.by_hand import causal_lm_loss

        return causal_lm_loss
    return loss_fn


def by_token(logits: Tensor, labels: Tensor) -> Tensor:
    return loss_fn(logits.flatten(0, 1), labels.flatten())
