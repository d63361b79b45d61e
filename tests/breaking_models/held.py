"""Models that hold, own and return tensors in unusual ways."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .case import TOO_FEW, UNKNOWN, Base, case


@case()
class PropertyWeight(Base):
    @property
    def table(self) -> torch.Tensor:
        return self.head.weight.t() * 2

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.table


TABLE = torch.linspace(0, 1, 8)


@case(refused=UNKNOWN)
class TensorOfTheClass(Base):
    table = torch.linspace(0, 1, 8)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table


@case(refused=UNKNOWN)
class GlobalTensor(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * TABLE


@case(refused=UNKNOWN)
class TensorInAList(Base):
    def __init__(self) -> None:
        super().__init__()
        self.tables = [torch.ones(8) * 2]

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.tables[0]


@case()
class ParameterIsAnOutput(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), self.head.weight, self.layers[0].weight, x


@case()
class UnusedParts(Base):
    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(x)


@case()
class AllFrozenButHead(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layers.requires_grad_(False)


@case()
class Doubles(Base):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x.double())


@case()
class LowPrecision(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x.to(self.head.weight.dtype)).float()


@case(refused=TOO_FEW)
class PartialForward(Base):
    """Layers are called through functools.partial and map."""

    def forward(self, x: torch.Tensor) -> Any:
        calls = (functools.partial(layer.forward) for layer in self.layers)
        for call in calls:
            x = call(x)
        return self.head(x)


@case(refused=TOO_FEW)
class CallsForward(Base):
    """``forward`` is called, so no hook and no ``__call__`` sees it."""

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer.forward(x)
        return self.head(x)


@case()
class OtherMethod(Base):
    class Layer(nn.Linear):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self(x) * 2

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer.encode(x)
        return self.head(x)


@case()
class LossesInside(Base):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return {"loss": F.mse_loss(y, x), "aux": y.abs().mean(), "logits": y.detach()}
