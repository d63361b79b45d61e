"""Signatures and inputs of all kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .case import OTHER, UNKNOWN, Base, case, floats


def nested(samples: int, generator: torch.Generator) -> dict[str, Any]:
    x = torch.randn(samples, 8, generator=generator)
    return {"batch": {"x": x, "more": [x * 2, (x + 1, None)], "scale": 2.0, "name": "add"}}


@case(nested)
class NestedInputs(Base):
    def forward(self, batch: dict[str, Any]) -> Any:
        x = batch["x"] * batch["scale"] + batch["more"][0]
        y = super().forward(x) + batch["more"][1][0]
        return y if batch["name"] == "add" else -y


@case(nested)
class NestedInputsOfLayers(Base):
    class Layer(nn.Linear):
        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {**batch, "x": super().forward(batch["x"]) * batch["scale"]}

    layer = Layer

    def forward(self, batch: dict[str, Any]) -> Any:
        for layer in self.layers:
            batch = layer(batch)
        return self.head(batch["x"]), batch["more"]


@case(nested)
class InputDictWritten(Base):
    def forward(self, batch: dict[str, Any]) -> Any:
        batch["y"] = super().forward(batch.pop("x"))
        return batch


def several(samples: int, generator: torch.Generator) -> dict[str, Any]:
    x = torch.randn(samples, 8, generator=generator)
    return {"x": x, "y": x * 2}


@case(several)
class Keywords(Base):
    def forward(self, x: torch.Tensor, **more: Any) -> Any:
        return super().forward(x) + sum(more.values())


@case(several)
class KeywordOnly(Base):
    def forward(self, *, x: torch.Tensor, y: torch.Tensor, z: Any = None, w: int = 3) -> Any:
        return super().forward(x) + y * w + (0 if z is None else z)


@case(several)
class SameInputTwice(Base):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return super().forward(x * y) + x, y, x


def optional(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {**floats(samples, generator), "mask": None}


class Optional(Base):
    def forward(self, x: torch.Tensor, mask: Any = None) -> Any:
        for layer in self.layers:
            x = layer(x)
            if mask is not None:
                x = x * mask
        return self.head(x)


@case(optional)
class OptionalNotGiven(Optional):
    pass


@case(floats, n_stages=3, examples=[{"x": torch.ones(2, 8), "mask": torch.zeros(2, 8)}])
class OptionalInExamples(Optional):
    pass


def count(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {**floats(samples, generator), "times": min(samples, 2)}


@case(count, later={"one": "the input 'times' is 1, but was 2 when the model was observe"})
class NumberAsInput(Base):
    def forward(self, x: torch.Tensor, times: int) -> Any:
        for layer in self.layers:
            for _ in range(times):
                x = layer(x)
        return self.head(x) * times


def ids(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {"ids": torch.randint(0, 8, (samples, samples + 4), generator=generator)}


class Embeds(Base):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 8)


@case(ids)
class Tokens(Embeds):
    def forward(self, ids: torch.Tensor) -> Any:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        return super().forward(self.embed(ids) + positions[..., None] / ids.size(1))


@case(ids, later={"size": OTHER, "one": OTHER})
class TokensInALoop(Embeds):
    def forward(self, ids: torch.Tensor) -> Any:
        x = self.embed(ids)
        out = [x[:, 0]]
        for t in range(1, ids.shape[1]):
            out.append(x[:, t] + out[-1])
        return super().forward(torch.stack(out, 1))


@case(ids, later={"size": OTHER, "one": OTHER})
class IdsToList(Embeds):
    def forward(self, ids: torch.Tensor) -> Any:
        wanted = [row[0] for row in ids.tolist()]
        return super().forward(self.embed(ids)) * len(set(wanted))


@case(ids)
class Blocks(Embeds):
    """Sequences are padded to a multiple of four."""

    def forward(self, ids: torch.Tensor) -> Any:
        more = -ids.shape[1] % 4
        padded = nn.functional.pad(ids, (0, more))
        x = self.embed(padded).unflatten(1, (-1, 4)).mean(2)
        return super().forward(x)


@case(ids)
class BlocksWithABranch(Embeds):
    def forward(self, ids: torch.Tensor) -> Any:
        if ids.shape[1] % 4:
            ids = nn.functional.pad(ids, (0, 4 - ids.shape[1] % 4))
        return super().forward(self.embed(ids).unflatten(1, (-1, 4)).mean(2))


def booleans(samples: int, generator: torch.Generator) -> dict[str, Any]:
    x = torch.randn(samples, 8, generator=generator)
    return {"x": x, "keep": x[:, :1] > 0, "scale": torch.tensor(2.0)}


@case(booleans)
class MasksAndScalars(Base):
    def forward(self, x: torch.Tensor, keep: torch.Tensor, scale: torch.Tensor) -> Any:
        return super().forward(torch.where(keep, x, -x) * scale) + keep.sum()


def complexes(samples: int, generator: torch.Generator) -> dict[str, Any]:
    return {"x": torch.randn(samples, 8, generator=generator)}


@case(complexes)
class ComplexNumbers(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.ifft(torch.fft.fft(x) * 1j).abs()


@case(complexes)
class ComplexBetween(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.complex(super().forward(x.real), x.imag)

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.complex(x, x)
        for layer in self.layers:
            x = layer(x).conj()
        return self.head(x.abs())


@case()
class SparseBetween(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
            return torch.sparse.mm(graph, super().forward(x))

    layer = Layer

    def forward(self, x: torch.Tensor) -> Any:
        graph = torch.eye(x.shape[0]).to_sparse()
        for layer in self.layers:
            x = layer(x, graph)
        return self.head(x)


class Tagged(torch.Tensor):
    """A subclass without anything of its own."""


@case(refused=UNKNOWN)
class SubclassBetween(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x.as_subclass(Tagged)).as_subclass(torch.Tensor)
