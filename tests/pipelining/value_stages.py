"""Stages that give, keep and write into values of many kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .stages import WIDTH, WORDS

__all__ = ["VALUES"]


class Begin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)

    def forward(self, ids: Tensor) -> Any:
        return {"value": self.embed(ids)}


class Through(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, value: Tensor) -> Any:
        return {"value": self.linear(value).tanh()}


class End(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, value: Tensor) -> Any:
        return {"logits": self.head(value)}


class Layouts(Begin):
    """Gives values that are transposed, expanded and sliced, and one without elements."""

    def forward(self, ids: Tensor) -> Any:
        hidden = self.embed(ids)
        return {
            "value": (
                hidden.transpose(0, 1),
                hidden.mean(1, keepdim=True).expand(-1, 5, -1),
                hidden[:, ::2, 1:],
                hidden[:, :0],
            )
        }


def strides(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


class ReadLayouts(Through):
    def forward(self, value: Any) -> Any:
        turned, wide, part, empty = value
        assert turned.stride(0) < turned.stride(1)
        assert wide.stride(1) == 0
        assert empty.shape[1] == 0
        hidden = self.linear(turned.transpose(0, 1)) + wide.mean(1, keepdim=True)
        return {"value": hidden + part[:, :1, :1] + empty.sum()}


class Plain(Begin):
    """Gives much that is no tensor, masks, and tensors that have no gradient."""

    def forward(self, ids: Tensor) -> Any:
        hidden = self.embed(ids)
        return {
            "value": {
                "hidden": hidden,
                "none": None,
                "number": 3,
                "half": 0.5,
                "text": "so",
                "shape": hidden.shape,
                "dtype": torch.float64,
                "count": torch.tensor(ids.shape[1]),
                "bool": ids > 7,
                "float": (ids > 3).float(),
                "double": (ids > 3).double() / 3,
                "ids": ids,
                (1, "key"): [hidden.sin(), (hidden.cos(), None)],
            }
        }


class ReadPlain(Through):
    def forward(self, value: Any) -> Any:
        assert value["none"] is None and value["number"] == 3 and value["text"] == "so"
        assert isinstance(value["shape"], torch.Size) and value["dtype"] is torch.float64
        assert value["count"].shape == () and value["count"].dtype == torch.int64
        assert not value["float"].requires_grad and value["bool"].dtype == torch.bool
        hidden = self.linear(value["hidden"]) * value["float"][..., None] * value["half"]
        hidden = (
            hidden.masked_fill(value["bool"][..., None], 0.1) + value["double"].float()[..., None]
        )
        sin, (cos, none) = value[1, "key"]
        assert none is None
        return {"value": hidden / value["count"] + sin * cos + value["ids"][..., None]}


@dataclass
class Streams:
    hidden: Tensor
    kept: list[Tensor]
    count: int


class GivesStreams(Begin):
    def forward(self, ids: Tensor) -> Any:
        hidden = self.embed(ids)
        return {"value": Streams(hidden, [hidden, hidden * 2], 2)}


class ReadStreams(Through):
    def forward(self, value: Any) -> Any:
        assert isinstance(value, Streams) and value.kept[0] is value.hidden
        return {"value": self.linear(value.hidden) + value.kept[1] / value.count}


class WriteIn(Through):
    """Works in place on all that arrived, and on its own output after it gave it."""

    def forward(self, value: Tensor) -> Any:
        value.mul_(2)
        value[:, 0] = 0.5
        hidden = self.linear(value)
        hidden.add_(value).relu_()
        return {"value": hidden + 1}


class BeginInPlace(Begin):
    """Works in place on the model's inputs."""

    def forward(self, ids: Tensor) -> Any:
        ids.add_(1).remainder_(WORDS)
        return {"value": self.embed(ids)}


class Buffer(Through):
    """Returns a buffer of its own, which it changes in the next forward; keeps all that came."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(64, WIDTH))
        self.register_buffer("last", torch.zeros(WIDTH))
        self.came: list[Any] = []

    def forward(self, value: Tensor) -> Any:
        self.came.append((value, value.detach().clone()))
        for kept, copy in self.came:
            assert torch.equal(kept, copy)
        self.total.add_(value.detach().mean((0, 1)))
        self.last.copy_(self.came[0][0].detach().mean((0, 1)))
        return {"value": self.linear(value), "total": self.total, "last": self.last}


class EndBuffer(End):
    def __init__(self) -> None:
        super().__init__()
        self.came: list[Any] = []

    def forward(self, value: Tensor, total: Tensor, last: Tensor) -> Any:
        self.came.append((value, value.detach().clone()))
        for kept, copy in self.came:
            assert torch.equal(kept, copy)
        return {"logits": self.head(value * total.mean(0) + last)}


class Norm(Through):
    """Keeps statistics, and drops."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, value: Tensor) -> Any:
        hidden = self.norm(self.linear(value).flatten(0, 1)).unflatten(0, value.shape[:2])
        return {"value": hidden + value}


class Drop(Through):
    def forward(self, value: Tensor) -> Any:
        return {"value": nn.functional.dropout(self.linear(value), 0.3, self.training)}


class DropAgain(Through):
    """Draws the same random numbers when its checkpoint is run again."""

    def forward(self, value: Tensor) -> Any:
        return {"value": checkpoint(self._drop, value, use_reentrant=False)}

    def _drop(self, value: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(value).tanh(), 0.3, self.training).sin()


class Complex(Through):
    def forward(self, value: Tensor) -> Any:
        return {"value": torch.fft.rfft(self.linear(value))}


class EndComplex(End):
    def forward(self, value: Tensor) -> Any:
        value = torch.fft.irfft(value) if value.is_complex() else value
        return {"logits": self.head(value)}


class Low(Through):
    """Gives bfloat16 and float64."""

    def forward(self, value: Any) -> Any:
        one, two = value if isinstance(value, tuple) else (value, value)
        hidden = self.linear(one.float() + two.float())
        return {"value": (hidden.bfloat16(), hidden.double())}


class EndLow(End):
    def forward(self, value: Any) -> Any:
        return {"logits": self.head((value[0].double() * value[1]).float())}


class GivesTwo(Begin):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Embedding(WORDS, WIDTH)
        self.never = nn.Embedding(WORDS, WIDTH)

    def forward(self, ids: Tensor) -> Any:
        return {"value": self.embed(ids), "sometimes": self.second(ids), "never": self.never(ids)}


class EndSometimes(End):
    """Uses a value in one of five micro-batches, and one in none."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, value: Tensor, sometimes: Tensor, never: Tensor) -> Any:
        self.calls += 1
        return {"logits": self.head(value + sometimes if self.calls % 5 == 0 else value)}


class Everything(nn.Module):
    """A model of one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([GivesTwo(), Drop(), EndSometimes()])

    def forward(self, ids: Tensor) -> Any:
        first, middle, last = self.parts
        values = first(ids)
        return last(**{**values, **middle(values["value"])})


VALUES = {
    "used sometimes": (GivesTwo, Through, Through, EndSometimes),
    "layouts": (Layouts, ReadLayouts, Through, End),
    "plain values": (Plain, ReadPlain, Through, End),
    "dataclass": (GivesStreams, ReadStreams, Through, End),
    "in place": (BeginInPlace, WriteIn, WriteIn, End),
    "kept and changed": (Begin, Buffer, Through, EndBuffer),
    "statistics": (Begin, Norm, Norm, End),
    "dropout": (Begin, Drop, Through, End),
    "dropout, checkpointed": (Begin, DropAgain, Through, End),
    "complex": (Begin, Through, Complex, EndComplex),
    "low and high precision": (Begin, Low, Low, EndLow),
}
