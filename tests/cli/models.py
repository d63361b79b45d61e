"""Models for ``pipecodec doctor``: some that are fine, and some that are not."""

from __future__ import annotations

import sys
import warnings

import torch
from torch import nn

EVIL = "<script>alert('x')</script>\"&\x1b[31m\u202e" + "漢字" * 60


class Chain(nn.Module):
    """Layers in a row; each gets the results of all layers `back` before it as well."""

    def __init__(self, layers: int, back: int = 0, values: int = 0, name: str = "layer") -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"{name}{k}": nn.Linear(8, 8) for k in range(layers)})
        self.back, self.values = back, values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results: list[torch.Tensor] = []
        extra: list[torch.Tensor] = []
        for k, layer in enumerate(self.layers.values()):
            x = layer(x).tanh()
            if k == 0:
                extra = list(x.expand(max(self.values, 1), 2, 8).mul(2).unbind())
            results.append(x)
            if self.back and k >= self.back:
                x = x + results[k - self.back]
        return torch.stack([x, *extra[: self.values]]).sum()


def given(model: nn.Module) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return model, {"x": torch.ones(2, 8)}


def fine() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return given(Chain(4))


def wide() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return given(Chain(4, values=1000))


def skipping() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return given(Chain(16, back=3))


def evil() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return given(Chain(4, name=EVIL))


class Loud(Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("loud", flush=True)
        return super().forward(x)


def loud() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    print("loud")
    warnings.warn("a warning of the model's", stacklevel=1)
    return given(Loud(3))


class Graph(nn.Module):
    """Layers on a graph, whose neighbours stand in a sparse matrix that cannot cross."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.register_buffer("neighbours", torch.eye(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        neighbours = self.neighbours.to_sparse()
        for layer in self.layers:
            x = neighbours @ layer(x)
        return x.sum()


class Failing(Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("planted\nin two lines")


def frozen() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    model = Chain(4)
    model.layers["layer3"].requires_grad_(False)
    model.layers["layer2"].requires_grad_(False)
    return given(model)


def broken() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return given(Graph())


def failing() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return given(Failing(2))


class Place:
    @staticmethod
    def build() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        return fine()


def raises() -> None:
    raise ValueError("planted\nin two lines")


def leaves() -> None:
    sys.exit(3)


def takes(x: int) -> None:
    pass


def nothing() -> None:
    pass


def three() -> tuple[int, int, int]:
    return 1, 2, 3


def no_module() -> tuple[int, dict[str, int]]:
    return 1, {}


def no_batch() -> tuple[nn.Module, torch.Tensor]:
    return Chain(2), torch.ones(2, 8)


def number_key() -> tuple[nn.Module, dict[int, int]]:
    return Chain(2), {1: 2}


def reserved() -> tuple[nn.Module, dict[str, int]]:
    return Chain(2), {"optimizer": 2}


async def later() -> None:
    pass


def missing_argument() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return Chain(2), {"y": torch.ones(2, 8)}


number = 7
