"""Glue that uses sizes, in every way Python has."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .case import OTHER, SIZES, UNEQUAL, UNKNOWN, Base, case


@case(later=SIZES)
class BranchOnSize(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4] @ torch.ones(4, 8) if x.shape[0] > 2 else x


@case(later=SIZES)
class LoopOverSize(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.stack([super(LoopOverSize, self).forward(x[i]) for i in range(x.shape[0])])


@case(later=SIZES)
class LoopOverRows(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(torch.stack([row * 2 for row in x]))


@case(later=SIZES)
class SizeArithmetic(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        b = x.shape[0]
        y = x.reshape(b * 2, -1) * (b**-0.5) + torch.arange(2 * b)[:, None] / max(1, b // 2)
        whole = torch.full((b, 1), float(x.numel()))
        return y.view(*x.shape[:-1], -1) + x.new_zeros(x.size()) + whole


@case(refused=UNKNOWN)
class SizeThroughNumpy(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_numpy(np.arange(x.shape[0], dtype=np.float32))[:, None]


@case(later=SIZES)
class SizeThroughInt(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        n = int(x.shape[0])
        return x[:n] + torch.ones(n, 1)


@case(later=SIZES)
class SizeThroughString(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.ones(int(str(x.shape[0])))[:, None]


@case(later=SIZES)
class SizeInRepeat(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([2.0] * x.shape[0])[:, None]


@case(later=SIZES)
class SizeIndexesAList(Base):
    table = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table[x.shape[0]]


@case(later=SIZES)
class SizeSlicesAList(Base):
    table = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * sum(self.table[: x.shape[0]])


@case(later=SIZES)
class SizeInAnFString(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(f"{x.shape[0]:{x.shape[0]}d}")


@case(later=SIZES)
class SizeIsADictKey(Base):
    table = MappingProxyType({n: float(n) for n in range(1, 9)})

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table[x.shape[0]]


@case(later=SIZES)
class SizeIsInASet(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] in {2, 3} else x


@case(later=SIZES)
class SizeThroughMath(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        root = math.sqrt(x.shape[0]) + math.log2(x.shape[0] + 1) + math.ceil(x.shape[0] / 2)
        return x / root + math.gcd(x.shape[0], 4) + math.prod(x.shape)


@case(later=SIZES)
class SizeThroughDivmod(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        whole, rest = divmod(x.shape[0], 2)
        return x * whole + rest + (x.shape[0] & 1) + (x.shape[0] << 1) + round(x.shape[0] / 3)


@case(later={"size": OTHER, "one": OTHER})
class SizeThroughMinAndMax(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * min(x.shape[0], 3) + max(x.size(0), 2) + sorted(x.shape)[0]


@case(later=SIZES)
class LengthOfATensor(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(len(x))[:, None] / len(x)


@case()
class HalfOfASize(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        half = x.size(-1) // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


@case(later={"size": OTHER, "one": OTHER})
class ChainedComparison(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if 1 < x.shape[0] <= 4 else x - 1


@case()
class SizeIsAnInstance(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if isinstance(x.shape[0], int) and not isinstance(x.shape[0], bool) else x


@case(refused=UNEQUAL)
class SizeHasTypeInt(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if type(x.shape[0]) is int else x - 1


@case(later=SIZES)
class ShapesAdded(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return (
            x + torch.zeros(x.shape[:-1] + torch.Size([1])) + torch.ones(*x.shape) * x.shape.numel()
        )


@case(later=SIZES)
class ShapesCompared(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape == (2, 8) else x - 1


@case(later=SIZES)
class ShapeIsAKey(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * {(2, 8): 2.0, (3, 8): 3.0}.get(tuple(x.shape), 5.0)


@case()
class SizeInAClosure(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]

        def scale(y: torch.Tensor) -> torch.Tensor:
            return y * n

        return functools.partial(torch.add, torch.full((n, 1), 0.5))(scale(x))


@case(later=SIZES)
class SizeInPartialOfALayer(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, scale: Any = None) -> torch.Tensor:
            return super().forward(x) if scale is None else scale(super().forward(x))

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer(x, functools.partial(torch.mul, torch.tensor(float(x.shape[0]))))
        return self.head(x)


@case()
class SizeInAClosureOfALayer(Base):
    layer = SizeInPartialOfALayer.Layer

    def forward(self, x: torch.Tensor) -> Any:
        n = x.shape[0]
        for layer in self.layers:
            x = layer(x, lambda y: y * n)
        return self.head(x)


@dataclasses.dataclass(frozen=True)
class Sizes:
    rows: int
    columns: int


class NamedSizes(NamedTuple):
    rows: int
    columns: int


class TakesSizes(nn.Linear):
    def forward(self, x: torch.Tensor, sizes: Any) -> torch.Tensor:
        return super().forward(x) * sizes.rows + sizes.columns


@case()
class SizesInADataclass(Base):
    layer = TakesSizes

    def forward(self, x: torch.Tensor) -> Any:
        sizes = Sizes(*x.shape)
        for layer in self.layers:
            x = layer(x, sizes)
        return self.head(x)


@case()
class SizesInANamedTuple(Base):
    layer = TakesSizes

    def forward(self, x: torch.Tensor) -> Any:
        sizes = NamedSizes(*x.shape)
        for layer in self.layers:
            x = layer(x, sizes._replace(columns=sizes.columns + 1))
        return self.head(x)


@case()
class SizesFromAGenerator(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        def sizes() -> Iterator[int]:
            yield from x.shape

        return x * sum(sizes()) + sum(n * 2 for n in x.shape)


@case(later=SIZES)
class ZippedRows(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([a + b for a, b in zip(x, x.flip(0), strict=True)])


@case(later=SIZES)
class Unbound(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = x.unbind(0)
        return torch.stack([first * 2, *rest])


@case(later=SIZES)
class ChunkedBySize(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([chunk * 2 for chunk in x.split(x.shape[0] // 2 + 1)])


@case(refused="when the same batch comes again: the model sets largest")
class SizeOverTime(Base):
    """An attribute keeps the largest size seen, which no stage would."""

    largest = 0

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, x.shape[0])
        return x * self.largest


@case()
class SizeAsFloatDivisor(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.shape[0] ** 0.5 * (1.0 / x.shape[1]) + -x.shape[0] + abs(-x.shape[0]) % 3


@case(later=SIZES)
class SizeTruth(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] - 2 else x - 1


@case()
class SizeToTensor(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor(x.shape[0]) + torch.as_tensor([x.shape[0], 1.0]).sum()


@case()
class SizeInATensorLiteral(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([[x.shape[0], x.shape[1]]]).float().mean()


@case(later=SIZES)
class SizeFromNumpyShape(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(np.prod(x.shape)) + float(np.sqrt(x.shape[0]))


@case(later=SIZES)
class SizeThroughEnumerate(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row * i for i, row in enumerate(x, 1)])


@case(later={"size": OTHER})
class SizeBelowAStep(Base):
    """Two and three samples take no step of the loop, five take one."""

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(x.shape[0] // 4):
            x = x * 2
        return x


@case(later={"size": OTHER})
class SizeIndexesBelowAStep(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.5, 2.5)[x.shape[0] // 4]


@case(later=SIZES)
class SizeInAShortString(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * (len(str(x.shape[0] * 3)) + len(f"{x.shape[0] * 3}"))


def sequence(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {"x": torch.randn(2, samples + 3, 8, generator=generator)}


@case(sequence, later={"size": OTHER, "one": OTHER})
class LoopOverTime(Base):
    """The loop is over the second size of a floating-point input."""

    def forward(self, x: torch.Tensor) -> Any:
        steps = [x[:, t] * (t + 1) for t in range(x.shape[1])]
        return super().forward(torch.stack(steps, 1))


@case(sequence, later={"size": OTHER, "one": OTHER})
class LastStep(Base):
    table = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table[x.shape[1]]
