"""A small language model in three stages, and the wrappers that may hide its tied weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

__all__ = ["VARIANTS", "Words", "words_stages"]

WIDTH, VOCABULARY = 8, 16


class Words(nn.Module):
    def __init__(self, variant: str) -> None:
        super().__init__()
        sparse = variant == "sparse gradients"
        self.embed: nn.Module = nn.Embedding(VOCABULARY, WIDTH, sparse=sparse)
        self.first, self.middle, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head: nn.Module = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        VARIANTS[variant](self)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.middle(self.first(self.embed(ids)).tanh()).tanh()
        logits: Tensor = self.head(self.last(hidden).tanh())
        return logits


class Adapted(nn.Module):
    """A layer with a low-rank one beside it, as adapter libraries wrap it."""

    def __init__(self, base: nn.Module, down: nn.Module, width: int, frozen: bool) -> None:
        super().__init__()
        self.base, self.down, self.up = base, down, nn.Linear(2, width, bias=False)
        base.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


class Unembedding(nn.Module):
    """A head that is the embedding itself, parametrized or not."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embed.weight.t()


class Squashed(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.tanh()


def adapted(model: Words, frozen: bool = True) -> None:
    model.embed = Adapted(model.embed, nn.Embedding(VOCABULARY, 2), WIDTH, frozen)
    model.head = Adapted(model.head, nn.Linear(WIDTH, 2), VOCABULARY, frozen)


def normed(model: Words) -> None:
    parametrizations.weight_norm(model.embed)
    model.head = Unembedding(model.embed)


def squashed(model: Words) -> None:
    parametrize.register_parametrization(model.embed, "weight", Squashed())


def shared(model: Words) -> None:
    model.middle.weight, model.middle.bias = model.first.weight, model.first.bias


VARIANTS: dict[str, Callable[[Words], Any]] = {
    "plain": lambda model: None,
    "adapters": adapted,
    "adapters, base trained": lambda model: adapted(model, frozen=False),
    "norm as parametrization": normed,
    "one side parametrized": squashed,
    "nothing but a copy": shared,
    "sparse gradients": lambda model: None,
}


class First(nn.Module):
    def __init__(self, model: Words) -> None:
        super().__init__()
        self.embed, self.first = model.embed, model.first

    def forward(self, ids: Tensor) -> Tensor:
        return self.first(self.embed(ids)).tanh()


class Middle(nn.Module):
    def __init__(self, model: Words) -> None:
        super().__init__()
        self.middle = model.middle

    def forward(self, hidden: Tensor) -> Tensor:
        return self.middle(hidden).tanh()


class Last(nn.Module):
    def __init__(self, model: Words) -> None:
        super().__init__()
        self.last, self.head = model.last, model.head

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(self.last(hidden).tanh())
        return logits


def words_stages(model: Words) -> list[nn.Module]:
    return [First(model), Middle(model), Last(model)]
