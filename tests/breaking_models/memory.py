"""Tensors that share memory, and code that writes into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .case import CROSSES, GRAPH_ENDS, Base, case, floats


@case()
class InPlaceInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        x += 1
        x[:, 0] = 0
        x.mul_(2)
        return x.relu_()


@case(refused=CROSSES)
class WriteIntoSentAlias(Base):
    """A view and its base both cross, and a later stage writes into the base."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[1](self.layers[0](x))
        base = torch.arange(8.0) * 1.0
        view = base[2:4]
        x = self.layers[3](self.layers[2](x))
        base.mul_(2)
        return self.head(x * base) + view.sum()


@case(refused=CROSSES)
class WriteIntoSentView(Base):
    """A later stage writes into the view, and reads the base."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[1](self.layers[0](x))
        base = torch.zeros(x.shape[0], 8)
        view = base[:, 2:4]
        x = self.layers[3](self.layers[2](x))
        view.copy_(x[:, :2])
        return self.head(x + base)


@case(refused=CROSSES)
class BufferFilledByStages(Base):
    """Each layer writes a slice of one tensor that was made before all of them."""

    def forward(self, x: torch.Tensor) -> Any:
        kept = x.new_zeros(4, x.shape[0], 8)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            kept[i] = x
        return self.head(x) + kept.sum(0)


@case()
class OutArgument(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        room = torch.empty(x.shape)
        with torch.no_grad():
            torch.mul(x, 2, out=room)
            torch.max(x, 0, out=(torch.empty(8), torch.empty(8, dtype=torch.long)))
        return x + room


@case()
class InputWritten(Base):
    def forward(self, x: torch.Tensor) -> Any:
        x.mul_(2)
        return super().forward(x) + x


@case(refused="it raises RuntimeError itself, forward or backward")
class InputWrittenLate(Base):
    """The last stage writes into an input that the first one takes."""

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        x.add_(1)
        return y + x


@case()
class Detached(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.detach() * 2 + x.data.exp()


@case()
class DetachedAlias(Base):
    """A detached tensor shares the memory that is written later."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[0](x)
        alias = x.detach()
        y = self.layers[2](self.layers[1](x.clone()))
        alias.mul_(3)
        return self.head(self.layers[3](y)) + alias


@case()
class DataWritten(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 1.0
        y.data.mul_(2)
        y.data = y.data + 1
        return y


@case(refused=CROSSES)
class DataWrittenAcross(Base):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[1](self.layers[0](x))
        y = x.clone()
        z = self.layers[3](self.layers[2](x))
        y.data.mul_(2)
        return self.head(z) + y


@case()
class Resized(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        room = torch.empty(0).resize_(x.shape).fill_(0.5)
        return x + room


@case()
class ExpandedWrite(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        row = torch.zeros(8)
        every = row.expand(x.shape)
        row.add_(1)
        return x + every


@case(refused=CROSSES)
class ExpandedAcross(Base):
    def forward(self, x: torch.Tensor) -> Any:
        row = torch.zeros(8)
        every = row.expand(x.shape)
        x = self.layers[1](self.layers[0](x) + every)
        x = self.layers[3](self.layers[2](x) + every)
        row.add_(1)
        return self.head(x + every)


@case()
class ChunksAcross(Base):
    """Two views of one tensor cross without it."""

    def forward(self, x: torch.Tensor) -> Any:
        first, second = self.layers[0](x).chunk(2, dim=-1)
        y = self.layers[2](self.layers[1](torch.cat([second, first], -1)))
        return self.head(self.layers[3](y)) + torch.cat([first, second], -1)


class Adds(nn.Linear):
    def forward(self, x: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        total.add_(x.detach().sum())
        return super().forward(x) * total.clone()


@case()
class LeafWritesArgument(Base):
    layer = Adds

    def forward(self, x: torch.Tensor) -> Any:
        total = torch.zeros(())
        for layer in self.layers:
            x = layer(x, total)
        return self.head(x) + total


@case(refused=CROSSES)
class LeafWritesViewOfArgument(Base):
    """The layers write into rows of one tensor, that the end reads as a whole."""

    layer = Adds

    def forward(self, x: torch.Tensor) -> Any:
        totals = torch.zeros(4)
        for i, layer in enumerate(self.layers):
            x = layer(x, totals[i])
        return self.head(x) + totals.sum()


class Doubles(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y.mul_(2)


@case(refused=CROSSES)
class LeafGivesItsArgument(Base):
    """A leaf returns the tensor that it got."""

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x.add_(1)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = self.Layer(8, 8)
        self.layers[2] = self.Layer(8, 8)


@case(refused="it raises RuntimeError itself, forward or backward")
class ViewThenInPlaceByLeaf(Base):
    """Glue views a layer's result, the next layer writes into the result."""

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            with torch.no_grad():
                x.mul_(0.5)
            return y

    def __init__(self) -> None:
        super().__init__()
        self.layers[2] = self.Layer(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[1](self.layers[0](x)).detach().requires_grad_()
        view = x[:, :4]
        x = self.layers[3](self.layers[2](x))
        return self.head(x) + view.sum()


@case(refused=CROSSES)
class BufferWrittenInGlue(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count.clone()


@case()
class BufferWrittenOnce(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> Any:
        self.count += 1
        return super().forward(x) * self.count.clone()


@case(refused="replaces its tensor mean between its layers")
class BufferReplacedInGlue(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return super().forward(x - self.mean)


@case()
class PlainTensorWritten(Base):
    """The running mean is a plain attribute, no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(8)

    def forward(self, x: torch.Tensor) -> Any:
        self.mean.mul_(0.9).add_(x.detach().mean(0) * 0.1)
        return super().forward(x - self.mean)


@case()
class BatchNorms(Base):
    layer = staticmethod(lambda a, b: nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b)))


@case(refused=r"writes into norm, which stages \[0, 1, 2\] use")
class SharedBatchNorm(Base):
    """One batch norm, called in all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


@case(refused=r"writes into head\.weight, which stages \[0, 2\] use")
class ParameterClamped(Base):
    """The first stage would clamp a copy of the last one's weight."""

    def forward(self, x: torch.Tensor) -> Any:
        with torch.no_grad():
            self.head.weight.clamp_(-0.1, 0.1)
        return super().forward(x)


@case()
class ParameterClampedInLeaf(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)
            return super().forward(x)

    layer = Layer


@case()
class ParameterDataClamped(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.data = self.weight.data.clamp(-0.1, 0.1)
            return super().forward(x)

    layer = Layer


@case()
class SetItemWithMask(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[y < 0] = 0.1
        y.masked_fill_(y > 1, 1.0)
        return y


def grown(samples: int, generator: torch.Generator) -> dict[str, Any]:
    inputs = floats(samples, generator)
    inputs["x"].requires_grad_()
    return inputs


@case(grown)
class InputWithGradient(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x) + x.sin()


@case(grown, refused=GRAPH_ENDS)
class GradientInGlue(Base):
    """Forces are the gradient of an energy."""

    def forward(self, x: torch.Tensor) -> Any:
        energy = super().forward(x).sum()
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return energy, force


@case(refused=GRAPH_ENDS)
class BackwardInGlue(Base):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        y.sum().backward(retain_graph=True)
        return y


@case(refused=GRAPH_ENDS)
class HookOnATensor(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * 2)
        return x


@case()
class RetainedGradient(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        x.retain_grad()
        return x
