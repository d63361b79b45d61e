"""Values that cross boundaries: functions that make them, and functions that use them."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from .stages import BATCH, WIDTH, First

__all__ = [
    "LARGE",
    "Pair",
    "Rotary",
    "added",
    "aliased",
    "averaged",
    "cast",
    "channels_last",
    "convolved",
    "growing",
    "grown",
    "in_place",
    "in_turn",
    "many",
    "model_output",
    "moody",
    "nested",
    "plain",
    "positions",
    "several",
    "shapes",
    "use_moody",
    "use_several",
]

LARGE = 1025
"""Elements of a tensor that has a slot of its own whatever its dtype, but for one-byte ones."""

Pair = namedtuple("Pair", "scale shift")


@dataclass
class Rotary:
    cos: Tensor
    sin: Tensor
    base: float = 1e4


def positions(first: First, x: Tensor, ids: Tensor) -> Tensor:
    return torch.linspace(-1, 1, WIDTH)


def added(hidden: Tensor, value: Tensor) -> Tensor:
    return hidden + value.to(hidden.dtype)


def cast(dtype: torch.dtype) -> Callable[[First, Tensor, Tensor], Tensor]:
    return lambda first, x, ids: first.extra(x).to(dtype)


def plain(hidden: Tensor, value: Any) -> Tensor:
    assert value == {
        "step": value["step"],
        "scale": 0.1,
        "kind": "rotary",
        "big": 2**70,
        "on": True,
    }
    assert type(value["step"]) is int
    return hidden * value["scale"] + value["step"]


def nested(hidden: Tensor, value: Any) -> Tensor:
    assert list(value) == ["mask", 3, "pair", "rotary", "empty"] and value["empty"] == ([], {})
    assert type(value["pair"]) is Pair and type(value["rotary"]) is Rotary
    mixed = hidden * value["pair"].scale + value["pair"].shift + value["rotary"].cos
    return (mixed * value["rotary"].sin).masked_fill(value["mask"], value[3])


def model_output(hidden: Tensor, value: BaseModelOutput) -> Tensor:
    cos, mask = value.hidden_states
    assert value.attentions is None
    return hidden * cos + value.last_hidden_state.masked_fill(mask, 0.0)


def shapes(hidden: Tensor, value: Any) -> Tensor:
    zero_dim, empty, transposed, expanded, both = value
    assert zero_dim.shape == () and empty.shape == (0, 3) and expanded.shape == (BATCH, WIDTH)
    assert transposed.stride() == (1, WIDTH) and expanded.stride() == (1, 0)
    assert both.shape == (WIDTH, 3, BATCH) and both.stride() == (1, 0, WIDTH)
    return hidden * zero_dim + empty.sum() + transposed.t() + expanded + both.sum(1).t()


def channels_last(first: First, x: Tensor, ids: Tensor) -> Any:
    """Images that a layer makes, and some without a gradient in a slot of their own."""
    images = first.extra(x).reshape(len(x), 2, 2, 2).to(memory_format=torch.channels_last)
    other = torch.linspace(-1, 1, 2 * LARGE).reshape(1, 2, 1, LARGE)
    return images, other.to(memory_format=torch.channels_last)


def convolved(hidden: Tensor, value: Any) -> Tensor:
    images, other = value
    for each in value:
        assert each.is_contiguous(memory_format=torch.channels_last) and not each.is_contiguous()
    kernel = torch.linspace(-1, 1, 4).reshape(2, 2, 1, 1).to(memory_format=torch.channels_last)
    made = torch.nn.functional.conv2d(images, kernel)
    assert made.is_contiguous(memory_format=torch.channels_last)
    wide = torch.nn.functional.conv2d(other, kernel)[..., :WIDTH].sum((0, 1, 2))
    return hidden + made.reshape(hidden.shape) + wide


def in_place(hidden: Tensor, value: Any) -> Tensor:
    value["mask"].logical_not_()
    value["bias"].mul_(0.5)
    return hidden.masked_fill_(value["mask"].clone(), 0.0).add_(value["bias"])


def aliased(hidden: Tensor, value: Any) -> Tensor:
    assert value[0] is value[1]["again"]
    return hidden + value[0] * value[1]["again"]


def growing(first: First, x: Tensor, ids: Tensor) -> Any:
    """A cache that grows with every call, and a None that becomes a tensor."""
    count = first.calls % 4
    cache = [torch.full((LARGE,), float(i)) for i in range(count)]
    return {"cache": cache, "bias": first.extra(x) if count % 2 else None}


def grown(hidden: Tensor, value: Any) -> Tensor:
    bias = 0.0 if value["bias"] is None else value["bias"]
    return hidden + bias + sum(float(entry[0]) for entry in value["cache"])


def many(first: First, x: Tensor, ids: Tensor) -> Any:
    rows = list(first.extra(x).unbind(1))
    return [rows[i % WIDTH] * (i + 1) for i in range(100)] + [torch.arange(i) for i in range(30)]


def several(first: First, x: Tensor, ids: Tensor) -> Any:
    """Two more differentiable leaves, a large mask that is worked on in place, a number."""
    mask = torch.zeros(LARGE, len(x), dtype=torch.bool)
    mask[0] = ids[:, 0] > 0
    return {"skip": first.extra(x), "wide": first.extra(x).double(), "mask": mask, "scale": 0.3}


def use_several(hidden: Tensor, value: Any) -> Tensor:
    value["mask"].logical_not_()
    mixed = hidden + value["skip"] * value["scale"] + value["wide"].to(hidden.dtype)
    return mixed.masked_fill(value["mask"][0, :, None].clone(), 0.0)


def averaged(first: First, x: Tensor, ids: Tensor) -> Tensor:
    """A moving average of evaluation's values that is kept, graph and all."""
    value = first.extra(x)
    if not torch.is_grad_enabled():
        first.average = 0.9 * getattr(first, "average", 0.5) + value.mean()
    return value * getattr(first, "average", 0.5)


def moody(first: First, x: Tensor, ids: Tensor) -> Any:
    """Evaluation sends another str, bool and None than training."""
    training = torch.is_grad_enabled()
    return {
        "mode": "training" if training else "evaluation",
        "training": training,
        "mask": torch.linspace(-1, 1, WIDTH) if training else None,
        "skip": first.extra(x),
    }


def use_moody(hidden: Tensor, value: Any) -> Tensor:
    assert (value["mode"] == "training") is value["training"] is (value["mask"] is not None)
    return hidden + value["skip"] + (value["mask"] if value["training"] else 0.0)


def in_turn(first: First, x: Tensor, ids: Tensor) -> Tensor:
    """Detached in the first micro-batch, attached in the second, and so on."""
    value = first.extra(x)
    return value.detach() if first.calls % 2 else value
