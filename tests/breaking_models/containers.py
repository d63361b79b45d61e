"""Containers and objects that layers share, fill and change."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import nn

from .case import HIDDEN, Base, case


@case()
class ListOfOutputs(Base):
    def forward(self, x: torch.Tensor) -> Any:
        kept = []
        for layer in self.layers:
            x = layer(x)
            kept.append(x)
        mean = torch.stack(kept).mean(0)
        return {"last": self.head(x), "all": tuple(kept), "mean": mean, "n": len(kept)}


class Remembers(nn.Linear):
    """Puts each input into a container, and adds what came before."""

    def forward(self, x: torch.Tensor, seen: Any) -> torch.Tensor:
        before = list(seen)
        if isinstance(seen, set):
            seen.add(x)
        else:
            seen.append(x)
        return super().forward(x) + (before[0] if before else 0)


class Shares(Base):
    layer = Remembers

    def container(self) -> Any:
        return []

    def forward(self, x: torch.Tensor) -> Any:
        seen = self.container()
        for layer in self.layers:
            x = layer(x, seen)
        return self.head(x) + sum(seen)


@case()
class SharedList(Shares):
    pass


@case()
class SharedDeque(Shares):
    def container(self) -> Any:
        return collections.deque(maxlen=3)


@case(refused=HIDDEN)
class SharedSet(Shares):
    def container(self) -> Any:
        return set()


class KeepsInDict(nn.Linear):
    def forward(self, x: torch.Tensor, state: Any) -> torch.Tensor:
        state["n"] = state.get("n", 0) + 1
        state[f"x{state['n']}"] = x
        return super().forward(x) + state["x1"] * state["n"]


class SharesDict(Shares):
    layer = KeepsInDict

    def container(self) -> Any:
        return {}

    def forward(self, x: torch.Tensor) -> Any:
        state = self.container()
        for layer in self.layers:
            x = layer(x, state)
        return self.head(x) + state["x2"] * state["n"]


@case()
class SharedDict(SharesDict):
    pass


@case()
class SharedOrderedDict(SharesDict):
    def container(self) -> Any:
        return collections.OrderedDict()


@case()
class SharedDefaultDict(SharesDict):
    def container(self) -> Any:
        return collections.defaultdict(int)


@case()
class SharedUserDict(SharesDict):
    def container(self) -> Any:
        return collections.UserDict()


@case()
class ListInDict(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
            state.setdefault("seen", []).append(x)
            state["n"] = state.get("n", 0) + 1
            return super().forward(x) + (state["seen"][0] if len(state["seen"]) > 1 else 0)

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        state: dict[str, Any] = {}
        for layer in self.layers:
            x = layer(x, state)
        return self.head(x) + sum(state["seen"])


class Point(NamedTuple):
    x: torch.Tensor
    scale: float


class TakesPoint(nn.Linear):
    def forward(self, point: Point) -> Point:
        return Point(super().forward(point.x) * point.scale, point.scale + 1)


@case()
class NamedTuplesBetween(Base):
    layer = TakesPoint

    def forward(self, x: torch.Tensor) -> Any:
        point = Point(x, 1.0)
        for layer in self.layers:
            point = layer(point)
        return point._replace(x=self.head(point.x))


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    kept: torch.Tensor | None = None
    count: int = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    count: int = 0


@dataclasses.dataclass
class Slotted:
    __slots__ = ("count", "x")
    x: torch.Tensor
    count: int


class Plain:
    __slots__ = ("count", "x")

    def __init__(self, x: torch.Tensor, count: int) -> None:
        self.x, self.count = x, count


class TakesRecord(nn.Linear):
    def forward(self, record: Any) -> Any:
        record.x = super().forward(record.x)
        record.count += 1
        return record


class TakesRecordAndKeeps(nn.Linear):
    def forward(self, record: Record) -> None:
        record.kept = record.x if record.kept is None else record.kept + record.x
        record.x = super().forward(record.x) * (record.count + 1)
        record.count += 1


class ThroughRecord(Base):
    layer = TakesRecord
    record: Any = Record

    def forward(self, x: torch.Tensor) -> Any:
        record = type(self).record(x, count=0)
        for layer in self.layers:
            record = layer(record)
        return self.head(record.x) * record.count


@case()
class DataclassBetween(ThroughRecord):
    pass


@case(refused=HIDDEN)
class SlottedBetween(ThroughRecord):
    record = Slotted


@case(refused=HIDDEN)
class SlotsBetween(ThroughRecord):
    record = Plain


@case()
class DataclassChangedInPlace(Base):
    layer = TakesRecordAndKeeps

    def forward(self, x: torch.Tensor) -> Any:
        record = Record(x)
        for layer in self.layers:
            layer(record)
        return self.head(record.x) + record.kept


@case()
class FrozenDataclassBetween(Base):
    class Layer(nn.Linear):
        def forward(self, record: Frozen) -> Frozen:
            return dataclasses.replace(record, x=super().forward(record.x), count=record.count + 1)

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        record = Frozen(x)
        for layer in self.layers:
            record = layer(record)
        return Frozen(self.head(record.x) * record.count)


@case()
class ObjectIsTheOutput(Base):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return Record(y, y * 2, 3)


class Cache:
    """Keys and values, by layer, as in transformers."""

    def __init__(self) -> None:
        self.entries: list[torch.Tensor] = []
        self.length = 0

    def update(self, x: torch.Tensor, i: int) -> torch.Tensor:
        if i >= len(self.entries):
            self.entries.append(x)
        else:
            self.entries[i] = torch.cat([self.entries[i], x], 0)
        self.length += x.shape[0]
        return self.entries[i]


@case()
class CacheBetween(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, cache: Cache, i: int) -> torch.Tensor:
            return super().forward(cache.update(x, i // 2)).narrow(0, 0, x.shape[0])

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        cache = Cache()
        for i, layer in enumerate(self.layers):
            x = layer(x, cache, i)
        return self.head(x) * cache.length, cache.entries


@case()
class GlueFillsADict(Base):
    def forward(self, x: torch.Tensor) -> Any:
        named = {}
        for i, layer in enumerate(self.layers):
            x = layer(x)
            named[f"layer{i}"] = x
        named.pop("layer1")
        return {"out": self.head(x), **named}


@case()
class KeysAreTensors(Base):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return {"nested": {"deep": [y, (y * 2, None)]}, 3: y + 1, "empty": {}, "text": "words"}


@case()
class NoneBetween(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, bias: Any = None) -> Any:
            return super().forward(x) + (0 if bias is None else bias), None

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        bias = None
        for layer in self.layers:
            x, bias = layer(x, bias)
        return self.head(x), bias, None


@case(refused=HIDDEN)
class IteratorBetween(Base):
    """A generator hands each layer its tensor."""

    class Layer(nn.Linear):
        def forward(self, rows: Any) -> torch.Tensor:
            return super().forward(next(rows))

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        rows = iter([x, x * 2, x * 3, x * 4])
        return self.head(sum(layer(rows) for layer in self.layers))


@case()
class LayersAreCallbacks(Base):
    """A layer gets the next one as a function."""

    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, after: Any) -> torch.Tensor:
            return after(super().forward(x))

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer(x, torch.tanh)
        return self.head(x)


@case()
class SelfReference(Base):
    def forward(self, x: torch.Tensor) -> Any:
        loop: dict[str, Any] = {"x": x}
        loop["self"] = loop
        return super().forward(loop["self"]["x"])


@case()
class LongList(Base):
    """More tensors than would be written by hand."""

    def forward(self, x: torch.Tensor) -> Any:
        rows = [x[:, i] * i for i in range(8)]
        for layer in self.layers:
            rows = list(layer(torch.stack(rows, 1)).unbind(1))
        return self.head(torch.stack(rows, 1)), rows[::2]
