"""A small chain of layers, its batches, and the comparison of a partition with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pipecodec
from pipecodec.stages.cut import Cut

WIDTH = 8


class Block(nn.Module):
    """A layer of a given size, with dropout."""

    def __init__(self, inner: int = WIDTH, dropout: float = 0.0) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.down(self.dropout(torch.relu(self.up(x))))
        return x + (y if mask is None else y * mask.unsqueeze(-1))


class Chain(nn.Module):
    """Layers with a mask and scale between them, and a loss where there are labels."""

    def __init__(self, sizes: tuple[int, ...] = (WIDTH,) * 6, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Block(size, dropout) for size in sizes)
        self.head = nn.Linear(WIDTH, 4)
        self.spare = nn.Linear(3, 3)  # never called

    def forward(self, x: Tensor, mask: Tensor | None = None, labels: Any = None) -> dict[str, Any]:
        if mask is not None:
            mask = mask.to(x.dtype)
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, mask) * x.shape[-2] ** -0.5
            x = functional.dropout(x, 0.1, self.training)
        logits = self.head(x)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits, "hidden": x}


def batch(samples: int = 2, length: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(samples, length, WIDTH, generator=generator),
        "mask": torch.rand(samples, length, generator=generator) > 0.3,
        "labels": torch.randint(4, (samples, length), generator=generator),
    }


def results(model: nn.Module, call: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """The output, and all gradients of its loss."""
    model.zero_grad()
    torch.manual_seed(3)
    output = call(**inputs)
    (output["logits"].sum() if output.get("loss") is None else output["loss"]).backward()
    return output, {name: p.grad for name, p in model.named_parameters()}


def assert_same(model: nn.Module, part: pipecodec.Partition, inputs: dict[str, Any]) -> None:
    expected, gradients = results(model, model, inputs)
    found, others = results(model, lambda **kw: pipecodec.run_local(part, **kw), inputs)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert (value is None and found[key] is None) or torch.equal(value, found[key]), key
    for name, gradient in gradients.items():
        other = others[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name


def cut_of(part: pipecodec.Partition) -> Cut:
    assert part.cut is not None
    return part.cut
