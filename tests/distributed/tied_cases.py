"""Models with tied weights, what is fed to them, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .tied_words import VARIANTS, Words, words_stages
from .tied_words import VOCABULARY as WORDS
from .training import loss_fn

__all__ = ["Case", "Toy", "build", "micro_batches"]

WIDTH, VOCABULARY, ACCUMULATE = 8, 256, 2


@dataclass(frozen=True)
class Case:
    """What to train and how.

    ``model`` is one of the demo's, "t5", one of ``VARIANTS``, or for each stage the names of the
    weights it uses, in brackets if it holds them without using them: the same name is the same
    weight. ``without`` leaves out one part of what keeps copies equal. ``tensor`` ranks hold each
    stage and do the same. Copies are compared every ``check`` steps. ``made``: the stages are
    "copied", and ties given by hand, "copied by name", and ties found in the model, or "on meta",
    until a rank needs its own.
    """

    model: str | tuple[str, ...]
    pipes: int
    replicas: int = 1
    tensor: int = 1
    schedule: str = "1f1b"
    bf16: bool = False
    zero: int = 0
    clip: float = 0.0
    steps: int = 5
    frozen: bool = False
    without: str = ""
    check: int = 0
    made: str = ""

    @property
    def processes(self) -> int:
        return self.pipes * self.replicas * self.tensor

    @property
    def accumulate(self) -> int:
        return 2 * self.pipes if self.schedule == "dualpipev" else ACCUMULATE

    @property
    def inputs(self) -> list[str] | None:
        t5 = ["input_ids", "attention_mask", "decoder_input_ids"]
        return t5 if self.model == "t5" else None

    @property
    def whole(self) -> tuple[Any, ...]:
        """What the training in one process depends on."""
        numbers = (self.replicas, self.accumulate, self.steps, self.clip)
        return (self.model, self.bf16, self.frozen, *numbers)


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


def build(case: Case) -> tuple[nn.Module, list[nn.Module], Callable[[Any, Any], Tensor]]:
    """Return the whole model, its stages, and the loss of its output and labels."""
    if case.model == "t5":
        from .t5 import build_t5, t5_stages

        t5 = build_t5(VOCABULARY, tied=True)
        return t5, t5_stages(t5, case.pipes), by_token
    if case.model in VARIANTS:
        torch.manual_seed(3)
        words = Words(str(case.model))
        return words, words_stages(words), by_token
    if isinstance(case.model, str):
        from pipecodec.demo.models import build_model, causal_lm_loss, cut_into_stages

        model = build_model(case.model, tied=True)
        return model, cut_into_stages(model, case.pipes), causal_lm_loss
    torch.manual_seed(3)
    toy = Toy(case.model)
    for name, parameter in toy.named_parameters():
        parameter.requires_grad_(not case.frozen or "own" in name)
    return toy, list(toy.stages), loss_fn


def by_token(logits: Tensor, labels: Tensor) -> Tensor:
    return loss_fn(logits.flatten(0, 1), labels.flatten())


def micro_batches(case: Case, step: int, replica: int) -> Iterator[dict[str, Tensor]]:
    for index in range(case.accumulate):
        random = torch.Generator().manual_seed(1000 * step + 100 * replica + index)
        if case.model in VARIANTS:
            ids = torch.randint(0, WORDS, (4, 6), generator=random)
            yield {"ids": ids, "labels": ids.flip(1)}
        elif isinstance(case.model, str):
            ids = torch.randint(0, VOCABULARY, (2, 12), generator=random)
            mask = (torch.arange(12) < torch.tensor([[12 - index], [7]])).long()
            batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
            yield {**batch, "decoder_input_ids": ids.flip(1)} if case.model == "t5" else batch
        else:
            dtype = torch.bfloat16 if case.bf16 else torch.float32
            yield {
                "hidden": torch.randn(4, WIDTH, generator=random).to(dtype),
                "labels": torch.randint(0, 3, (4,), generator=random),
            }
