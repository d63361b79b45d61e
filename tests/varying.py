"""Stages whose lengths, numbers of tensors, texts and numbers differ in each micro-batch.

Some micro-batches have images, the last batch is a short one, evaluation has other numbers of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import pipecodec

__all__ = [
    "BATCHES",
    "LONGEST",
    "MICRO_BATCHES",
    "ROWS",
    "WIDTH",
    "First",
    "Last",
    "Middle",
    "batches",
    "loss_fn",
    "partition",
    "trained",
]

BATCHES, MICRO_BATCHES, ROWS, WIDTH = 3, 4, 2, 4
LONGEST = MICRO_BATCHES * BATCHES + 1


class First(nn.Linear):
    """Cuts each micro-batch to its own length, of which the other values are made.

    Every second length has images, as many as it has tokens, and a tower of weights for them.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.tower = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: Tensor) -> dict[str, Any]:
        longest = max(lengths.tolist())
        hidden = super().forward(x[:, :longest]).tanh()
        return {
            "hidden": hidden,
            "parts": {f"part {i}": hidden * (i + 1) for i in range(longest % 3)},
            "text": "of length " + "i" * longest,
            "scale": longest / 7,
            "images": self.tower(x[0, :longest]).tanh() if longest % 2 else None,
            "mask": torch.arange(longest).to(x.device) < lengths[:, None],
        }


class Middle(nn.Linear):
    """Changes the text and the number, and drops a tensor."""

    def forward(self, hidden: Tensor, parts: dict[str, Tensor], text: str, scale: float) -> Any:
        hidden = super().forward(hidden).tanh() * scale
        for part in parts.values():
            hidden = hidden + part
        kept = dict(list(parts.items())[1:])
        return {"hidden": hidden, "parts": kept, "text": text + "!", "scale": scale + len(text)}


class Last(nn.Linear):
    """Uses every value that arrives."""

    def forward(
        self,
        hidden: Tensor,
        parts: dict[str, Tensor],
        text: str,
        scale: float,
        images: Tensor | None,
        mask: Tensor,
    ) -> Tensor:
        out = super().forward(hidden) * mask[..., None] / (scale + text.count("i"))
        for name, part in parts.items():
            out = out + part * int(name[-1])
        if images is not None:
            out = out + images
        return out.sum(1)


def partition(middles: int = 1) -> Any:
    torch.manual_seed(3)
    between = [Middle(WIDTH, WIDTH) for _ in range(middles)]
    return pipecodec.partition_modules([First(WIDTH), *between, Last(WIDTH, WIDTH)])


def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
    return ((output - labels) ** 2).mean()


def batches(evaluated: bool = False) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """Return (x, lengths, labels) of all micro-batches; every one is longer than the last."""
    generator = torch.Generator().manual_seed(5 + evaluated)

    def rows(batch: int) -> int:
        return ROWS + batch if evaluated else ROWS - (batch == BATCHES - 1)

    def lengths(rows: int, longest: int) -> Tensor:
        return torch.tensor([1] * (rows - 1) + [longest])

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        [
            (
                drawn(rows(batch), LONGEST, WIDTH),
                lengths(rows(batch), 1 + batch * MICRO_BATCHES + number),
                drawn(rows(batch), WIDTH),
            )
            for number in range(MICRO_BATCHES)
        ]
        for batch in range(BATCHES)
    ]


def trained() -> tuple[list[Any], list[Any]]:
    """Return each stage's weights after training in one process, and the evaluated outputs."""
    part = partition()
    parameters = [parameter for stage in part.stages for parameter in stage.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    outputs = []
    for batch, evaluated in zip(batches(), batches(evaluated=True), strict=True):
        for x, lengths, labels in batch:
            (loss_fn(_run(part, x, lengths), labels) / MICRO_BATCHES).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            outputs += [_run(part, x, lengths).tolist() for x, lengths, _ in evaluated]
    return [[p.tolist() for p in stage.parameters()] for stage in part.stages], outputs


def _run(part: Any, x: Tensor, lengths: Tensor) -> Tensor:
    first, middle, last = part.stages
    values = first(x, lengths)
    passed = {name: values.pop(name) for name in ("images", "mask")}
    return last(**middle(**values), **passed)
