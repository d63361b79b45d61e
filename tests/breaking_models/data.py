"""Glue whose way, or whose numbers, depend on values or on chance."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .case import CHANCE, COUNT, FIXED, OTHER, TOO_FEW, UNEQUAL, UNKNOWN, Base, case


@case(later={"data": OTHER, "one": OTHER})
class BranchOnData(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x - 1


@case(later={"data": OTHER, "size": OTHER, "one": OTHER})
class ItemInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x / float(x.detach().abs().max())


@case(refused=UNKNOWN)
class NumpyInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_numpy(x.detach().numpy().copy()) * 0.1


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class NumpyScalar(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(np.asarray(x.detach()).max())


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class ListOfValues(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor(x.detach().tolist()).abs()


@case()
class MaskedRows(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        kept = x[:, 0] > 0
        return torch.cat([x[kept] * 2, x[~kept]])


@case()
class NonzeroRows(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[:, 0].nonzero(as_tuple=True)[0]
        (again,) = torch.where(x[:, 1] > -100)
        return x.index_add(0, rows, x[rows]) + x[again]


@case()
class CountOfMasked(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        found = x[x > 0]
        return x * (found.shape[0] + 1)


@case(later={"data": COUNT, "size": FIXED, "one": FIXED})
class LoopOverFound(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        for i in torch.where(x[:, 0] > 0)[0]:
            x = x + x[i]
        return x


@case()
class UniqueAndSort(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        order = x[:, 0].argsort()
        values, back = torch.unique((x.detach() * 10).round(), return_inverse=True)
        return x[order] + values[back]


@case(later={"one": OTHER})
class Routing(Base):
    """A mixture of experts in glue: an expert without tokens is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[1](self.layers[0](x))
        chosen = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            if rows.numel():
                out = out.index_add(0, rows, expert(x[rows]))
        return self.head(self.layers[3](self.layers[2](out)))


@case()
class RoutingOfEmpty(Routing):
    """Each expert is called, with no rows too."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[1](self.layers[0](x))
        chosen = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == i)
            out = out.index_add(0, rows, expert(x[rows]))
        return self.head(self.layers[3](self.layers[2](out)))


@case(refused=OTHER)
class RandomDepth(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            if torch.rand([]) < 0.5:
                x = layer(x)
        return self.head(x)


@case()
class RandomScale(Base):
    """Stochastic depth without a branch."""

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            kept = torch.empty(x.shape[0], 1).bernoulli_(0.5)
            x = x + layer(x) * kept / 0.5
        return self.head(x)


@case(refused=CHANCE)
class PythonRandomDepth(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            if random.random() < 0.5:
                x = x + layer(x)
        return self.head(x)


@case(refused=CHANCE)
class PythonRandomScale(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * random.uniform(0.5, 1.5)


@case(refused=CHANCE)
class NumpyRandomScale(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(np.random.uniform(0.5, 1.5))


@case()
class PythonRandomInALayer(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if random.random() < 0.5 else x * 1.0

    layer = Layer


@case(refused=TOO_FEW)
class LayerDrop(Base):
    """Chance decides in training alone, as in layerdrop of Hugging Face's encoders."""

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            if self.training and torch.rand([]).item() < 0.3:
                continue
            x = layer(x)
        return self.head(x)


@case()
class DropoutInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.3, training=self.training) + torch.rand_like(x)


@case()
class RandomUnused(Base):
    """A random tensor that nobody uses advances the random state."""

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(3).normal_()
        torch.randperm(5)
        return F.dropout(x, 0.3)


@case(refused=CHANCE)
class OwnGenerator(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(8, generator=torch.Generator().manual_seed(5))


@case(refused=UNEQUAL)
class SeedSetInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(11)
        return x + torch.rand_like(x)


@case(refused=CHANCE)
class CountOfCalls(Base):
    """Python counts the calls: no stage would."""

    calls = 0

    def forward(self, x: torch.Tensor) -> Any:
        type(self).calls += 1
        return super().forward(x) * self.calls


@case()
class CounterOnSelf(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        return super().forward(x) * (2.0 if self.calls > 3 else 1.0)


@case()
class EqualTensors(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if torch.equal(x, x.relu()) or torch.allclose(x, -x) else x - 1


@case()
class AnyAndAll(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if (x > -1000).all() and not x.isnan().any() else x - 1


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class MaxOfTensors(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + max(x.sum(), x.prod()) + sum(sorted([x.max(), x.min()], key=float))


@case()
class AssertOnData(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        assert torch.isfinite(x).all(), "not finite"
        return x


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class PrintsData(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        self.said = f"{x.mean():.3f} {x.shape} {x}"
        return x


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class DecidesByText(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if "-" in f"{x.sum():.3f}" else x


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class DecidesByRepr(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if "-" in repr(x[:, 0]) else x


@case()
class TensorIsAKey(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        seen = {x: 2.0}
        return x * seen[x]


@case(later={"data": OTHER, "one": OTHER})
class TensorIndexesAList(Base):
    table = (0.5, 1.5)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table[(x.sum() > 0).int()]


@case(later={"data": OTHER, "size": FIXED, "one": FIXED})
class RangeOverATensor(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range((x[:, 0] > 0).sum()):
            x = x * 1.5
        return x


@case(later={"data": OTHER, "one": OTHER})
class UntilSmall(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        while x.abs().max() > 0.5:
            x = x * 0.5
        return x
