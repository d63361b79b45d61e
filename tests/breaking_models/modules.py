"""Models of all shapes: how layers are held, called, hooked and tied."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from .case import TOO_FEW, UNKNOWN, Base, case


def unnamed(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {"input": torch.randn(samples, 8, generator=generator)}


@case()
class CalledTwice(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in [*self.layers, *self.layers]:
            x = layer(x).tanh()
        return self.head(x)


@case()
class ParameterInGlue(Base):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8) * 1.5)
        self.register_buffer("shift", torch.ones(8))
        self.plain = torch.full((8,), 0.5)

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x * self.scale + self.shift + self.plain
        return scaled + F.linear(x, self.head.weight)


class LeavesState(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        self.aux = y.pow(2).mean()
        return y


@case()
class StateReadInGlue(Base):
    """A layer leaves an auxiliary loss on itself, and glue adds them up."""

    layer = LeavesState

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x) + sum(layer.aux for layer in self.layers)


@case(refused=r"layers\.1 reads a tensor at \S*\.py:\d+ that layers\.0 made")
class StateReadByLayer(Base):
    """A layer leaves a tensor on itself, and the next reads it there."""

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, before: Any) -> torch.Tensor:
            y = super().forward(x)
            if before is not None:
                y = y + before.kept
            self.kept = y * 2
            return y

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        before = None
        for layer in self.layers:
            x = layer(x, before)
            before = layer
        return self.head(x)


kept: list[torch.Tensor] = []


@case(refused="they raise RuntimeError where the model does not")
class GlobalState(Base):
    """A layer leaves a tensor in a global, and another reads it."""

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            if kept:
                y = y + kept[0]
            kept[:] = [y]
            return y

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        kept.clear()
        return super().forward(x)


@case(refused=UNKNOWN)
class Leaked(Base):
    """A layer leaves a tensor that it made inside in a global, and glue reads it."""

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            kept.append(y.sin())
            return y

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        kept.clear()
        return super().forward(x) + sum(kept)


@case()
class HooksOnLayers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        for layer in self.layers:
            layer.register_forward_hook(lambda module, args, y: self.seen.append(y))

    def forward(self, x: torch.Tensor) -> Any:
        self.seen.clear()
        return super().forward(x) + sum(self.seen)


def doubled(module: nn.Module, args: Any, y: torch.Tensor) -> torch.Tensor:
    return y * 2


def prepared(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return (args[0] + 1,), kwargs


def on_gradients(module: nn.Module, given: Any, out: Any) -> Any:
    return tuple(None if gradient is None else gradient * 2 for gradient in given)


@case()
class HooksThatReplace(Base):
    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            layer.register_forward_hook(doubled)
            layer.register_forward_pre_hook(prepared, with_kwargs=True)
            layer.register_full_backward_hook(on_gradients)


@case()
class HookOnTheModel(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(doubled)
        self.register_forward_pre_hook(lambda module, args: None)


@case()
class BackwardHookOnTheModel(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_full_backward_hook(on_gradients)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x).relu()
        return x


@case()
class HookOnAContainer(nn.Module):
    """A hook on a module inside which the model is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Nested(), nn.Linear(8, 8)
        self.body.register_forward_hook(doubled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@case()
class GradientHookOnAContainer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Nested(), nn.Linear(8, 8)
        self.body.register_full_backward_hook(on_gradients)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x * 2))


@case()
class HookOnAParameter(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layers[2].weight.register_hook(lambda gradient: gradient * 3)


@case()
class WeightNorm(Base):
    @staticmethod
    def layer(a: int, b: int) -> nn.Module:
        return parametrizations.weight_norm(nn.Linear(a, b))


@case()
class SpectralNorm(Base):
    @staticmethod
    def layer(a: int, b: int) -> nn.Module:
        return parametrizations.spectral_norm(nn.Linear(a, b))


@case()
class OldSpectralNorm(Base):
    @staticmethod
    def layer(a: int, b: int) -> nn.Module:
        return torch.nn.utils.spectral_norm(nn.Linear(a, b))


@case()
class Sequence(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@case(unnamed)
def PlainSequence() -> nn.Module:
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))


@case()
class InADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(8, 8) for name in "abcd"})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in sorted(self.parts, reverse=True):
            x = self.parts[name](x).relu()
        return x


@case()
class InAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x)).relu())


@case()
class ListsInLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ModuleList(
            nn.ModuleList(nn.Linear(8, 8) for _ in range(2)) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for a, b in self.rows:
            x = a(x) + b(x)
        return x


@case(unnamed, refused=TOO_FEW)
def OneLeaf() -> nn.Module:
    return nn.Linear(8, 8)


@case(refused=UNKNOWN)
class HiddenFromTorch(Base):
    """Layers in a plain list are no submodules, so their weights are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(8, 8)]

    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden[0](x)


@case()
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(16, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for layer in self.down:
            x = layer(x).relu()
            skips.append(x)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], -1))
        return x


@case()
class Recurrent(Base):
    layer = nn.GRUCell

    def forward(self, x: torch.Tensor) -> Any:
        states = [x.new_zeros(x.shape[0], 8) for _ in self.layers]
        for t in range(3):
            y = x * (t + 1)
            for i, layer in enumerate(self.layers):
                y = states[i] = layer(y, states[i])
        return self.head(y), states


@case()
class Tied(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layers[3].weight = self.layers[0].weight
        self.head = self.layers[1]

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x) @ self.layers[0].weight.t()


@case()
class SharedInside(Base):
    """Each layer holds one module that all share."""

    class Layer(nn.Module):
        def __init__(self, shared: nn.Module) -> None:
            super().__init__()
            self.own, self.shared = nn.Linear(8, 8), shared

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(self.own(x))

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(8, 8)
        self.layers = nn.ModuleList(self.Layer(shared) for _ in range(4))


@case(refused="replaces modules of its own while it runs")
class ReplacesItsLayer(Base):
    def forward(self, x: torch.Tensor) -> Any:
        self.layers[1] = nn.Identity()
        return super().forward(x)


@case(refused="layers.0.weight gets its shape in the first forward")
class Lazy(Base):
    @staticmethod
    def layer(a: int, b: int) -> nn.Module:
        return nn.LazyLinear(b)


@case()
class GetAttr(Base):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("block"):
            return self.layers[int(name[5:])]
        return super().__getattr__(name)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.block3(self.block2(self.block1(self.block0(x)))))
