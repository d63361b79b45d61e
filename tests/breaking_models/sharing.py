"""Layers that share a container, an object or a module in their attributes, and write into it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .case import WIDTH, Base, case

NO_ARGUMENT = r"layers\.3 reads a tensor at \S*\.py:\d+ that layers\.0 made, but not through its"
STAGES = r"\.py:\d+ writes into {}, which stages \[0, 1, 2\] use"
GLUE = r"the code between the layers changes layers\.\d\.store\.{}, before \S*\.py:\d+ calls layers"


class Sharing(Base):
    """The first layer leaves something in the store of all layers, and the last reads it."""

    class Layer(nn.Linear):
        store: Any
        number: int

        def forward(self, x: torch.Tensor) -> Any:
            y = super().forward(x)
            if self.number == 0:
                self.leave(y * 2)
            return self.read(y) if self.number == 3 else y

        def leave(self, y: torch.Tensor) -> None:
            self.store["kept"] = y

        def read(self, y: torch.Tensor) -> Any:
            return y + self.store["kept"]

    layer = Layer

    def __init__(self) -> None:
        super().__init__()
        store = self.make()
        for number, layer in enumerate(self.layers):
            layer.store, layer.number = store, number

    def make(self) -> Any:
        return {}


@case(refused=rf"{NO_ARGUMENT} arguments \(but by way of layers\.3\.store\['kept'\]\)")
class SharedDictInAttributes(Sharing):
    pass


class InList(Sharing.Layer):
    def leave(self, y: torch.Tensor) -> None:
        self.store[0][:] = [y]

    def read(self, y: torch.Tensor) -> Any:
        return y + self.store[0][0]


@case(refused=rf"{NO_ARGUMENT} arguments \(but by way of layers\.3\.store\[0\]\[0\]\)")
class SharedListInAttributes(Sharing):
    layer = InList

    def make(self) -> Any:
        return ([],)


class InObject(Sharing.Layer):
    def leave(self, y: torch.Tensor) -> None:
        self.store.kept = y

    def read(self, y: torch.Tensor) -> Any:
        return y + self.store.kept


class Store:
    pass


class SlottedStore:
    __slots__ = ("kept",)


@case(refused=rf"{NO_ARGUMENT} arguments \(but by way of layers\.3\.store\.kept\)")
class SharedObjectInAttributes(Sharing):
    layer = InObject

    def make(self) -> Any:
        return Store()


@case(refused=rf"{NO_ARGUMENT} arguments \(but by way of layers\.3\.store\.kept\)")
class SharedSlotsInAttributes(SharedObjectInAttributes):
    def make(self) -> Any:
        return SlottedStore()


@case(refused=rf"{NO_ARGUMENT} arguments \(but by way of layers\.3\.store\.kept\)")
class SharedModuleInAttributes(SharedObjectInAttributes):
    def make(self) -> Any:
        return nn.Identity()


class Returned(InObject):
    def read(self, y: torch.Tensor) -> Any:
        return self.store.kept


@case(refused=NO_ARGUMENT)
class SharedTensorReturned(SharedObjectInAttributes):
    """No torch function reads the tensor: the layer returns it as it is."""

    layer = Returned


class AlsoArgument(InObject):
    def forward(self, x: torch.Tensor) -> Any:
        y = F.linear(x, self.weight)
        if self.number == 0:
            self.store.kept = y
        return y + self.store.kept if self.number == 1 else y


@case(refused=STAGES.format(r"layers\.0\.store\.kept"))
class SharedTensorIsAnArgumentToo(SharedObjectInAttributes):
    layer = AlsoArgument


class Rows(InObject):
    def leave(self, y: torch.Tensor) -> None:
        self.store.kept = y.shape[0]

    def read(self, y: torch.Tensor) -> Any:
        return y * self.store.kept


@case(refused=STAGES.format(r"layers\.0\.store\.kept"))
class SharedNumber(SharedObjectInAttributes):
    layer = Rows

    def make(self) -> Any:
        return SimpleNamespace(kept=0)


class Normed(Sharing.Layer):
    def forward(self, x: torch.Tensor) -> Any:
        return self.store(F.linear(x, self.weight))


@case(refused=STAGES.format(r"layers\.0\.store\.running_mean"))
class SharedStatisticsInside(Sharing):
    """A batch norm within all layers, none of which is a step of its own."""

    layer = Normed

    def make(self) -> Any:
        norm = nn.BatchNorm1d(WIDTH)
        norm.num_batches_tracked = None  # the only buffer whose writes torch counts
        return norm


class Counts(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


@case(refused=STAGES.format(r"layers\.0\.calls").replace("0, 1, 2", "0, 1"))
class OwnNumberInTwoStages(Base):
    """Layers count their calls within a batch, and are called again in a later stage."""

    layer = Counts

    def forward(self, x: torch.Tensor) -> Any:
        for layer in [*self.layers, *self.layers]:
            x = layer(x)
        for layer in self.layers:
            layer.calls = 0
        return self.head(x)


class OwnStore(Sharing.Layer):
    def forward(self, x: torch.Tensor) -> Any:
        y = super(Sharing.Layer, self).forward(x)
        self.store.setdefault("own", []).append(y)
        return y + self.store["own"].pop() * self.store["scale"]


@case()
class OwnContainers(Sharing):
    """A container that one layer alone writes into ties nobody to it."""

    layer = OwnStore

    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            layer.store = {"scale": torch.full((), 0.5)}


class Scaled(Sharing.Layer):
    def forward(self, x: torch.Tensor) -> Any:
        return super(Sharing.Layer, self).forward(x) * self.store["scale"]


@case()
class SharedConstants(Sharing):
    layer = Scaled

    def make(self) -> Any:
        return {"scale": torch.full((), 0.5), "names": ["a", "b"]}


@case(split=["layers.2"])
class SharedInOneStage(SharedNumber):
    """Only the layers of one stage share the object."""

    def __init__(self) -> None:
        super().__init__()
        for number, layer in enumerate(self.layers):
            layer.number = 3 if number % 2 else 0
            if number < 2:
                layer.store = self.make()
        self.layers[1].store = self.layers[0].store


class Masked(Sharing.Layer):
    def forward(self, x: torch.Tensor) -> Any:
        return super(Sharing.Layer, self).forward(x) * self.store.mask


@case(refused=GLUE.format("mask"))
class GlueFillsAnObject(SharedObjectInAttributes):
    layer = Masked

    def value(self, x: torch.Tensor) -> Any:
        return (x > 0).float()

    def forward(self, x: torch.Tensor) -> Any:
        self.layers[0].store.mask = self.value(x)
        return super().forward(x)


@case(refused=GLUE.format("mask"))
class GlueLeavesANumber(GlueFillsAnObject):
    def value(self, x: torch.Tensor) -> Any:
        return x.shape[0]


class Keeps(Base):
    """Glue writes into buffers, in all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("var", torch.ones(WIDTH))


@case(refused=STAGES.format("mean"))
class GlueWritesAViewOfABuffer(Keeps):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        self.mean[2:4].copy_(x.detach().mean(0)[:2])
        return x


@case(refused=STAGES.format("mean"))
class GlueWritesTheDataOfABuffer(Keeps):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.data.add_(1)
        return x


@case(refused=STAGES.format("mean"))
class GlueNormalizes(Keeps):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)


@case(refused=r"writes into layers\.3\.running_mean, which stages \[0, 2\] use")
class GlueWritesTheBufferOfALayer(Base):
    """The layer that reads the buffer is in another stage than the code that writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[3] = nn.BatchNorm1d(WIDTH)

    def forward(self, x: torch.Tensor) -> Any:
        self.layers[3].running_mean.add_(1)
        return super().forward(x)
