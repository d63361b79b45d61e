"""What may cross a boundary, one row a kind.

Every row trains a chain First, Middle..., Last. First makes ``hidden`` and the row's ``value``;
each Middle uses both, or with ``bypass`` only ``hidden``; Last uses both.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from .stages import BATCH, WIDTH, First, Row

__all__ = ["ROWS", "TABLES"]

LARGE = 1025
"""Elements of a tensor that has a slot of its own whatever its dtype, but for one-byte ones."""

Pair = namedtuple("Pair", "scale shift")


@dataclass
class Rotary:
    cos: Tensor
    sin: Tensor
    base: float = 1e4


def _positions(first: First, x: Tensor, ids: Tensor) -> Tensor:
    return torch.linspace(-1, 1, WIDTH)


def _added(hidden: Tensor, value: Tensor) -> Tensor:
    return hidden + value.to(hidden.dtype)


def _cast(dtype: torch.dtype) -> Callable[[First, Tensor, Tensor], Tensor]:
    return lambda first, x, ids: first.extra(x).to(dtype)


def _plain(hidden: Tensor, value: Any) -> Tensor:
    assert value == {
        "step": value["step"],
        "scale": 0.1,
        "kind": "rotary",
        "big": 2**70,
        "on": True,
    }
    assert type(value["step"]) is int
    return hidden * value["scale"] + value["step"]


def _nested(hidden: Tensor, value: Any) -> Tensor:
    assert list(value) == ["mask", 3, "pair", "rotary", "empty"] and value["empty"] == ([], {})
    assert type(value["pair"]) is Pair and type(value["rotary"]) is Rotary
    mixed = hidden * value["pair"].scale + value["pair"].shift + value["rotary"].cos
    return (mixed * value["rotary"].sin).masked_fill(value["mask"], value[3])


def _model_output(hidden: Tensor, value: BaseModelOutput) -> Tensor:
    cos, mask = value.hidden_states
    assert value.attentions is None
    return hidden * cos + value.last_hidden_state.masked_fill(mask, 0.0)


def _shapes(hidden: Tensor, value: Any) -> Tensor:
    zero_dim, empty, transposed, expanded, both = value
    assert zero_dim.shape == () and empty.shape == (0, 3) and expanded.shape == (BATCH, WIDTH)
    assert transposed.stride() == (1, WIDTH) and expanded.stride() == (1, 0)
    assert both.shape == (WIDTH, 3, BATCH) and both.stride() == (1, 0, WIDTH)
    return hidden * zero_dim + empty.sum() + transposed.t() + expanded + both.sum(1).t()


def _channels_last(first: First, x: Tensor, ids: Tensor) -> Any:
    """Images that a layer makes, and some without a gradient in a slot of their own."""
    images = first.extra(x).reshape(len(x), 2, 2, 2).to(memory_format=torch.channels_last)
    other = torch.linspace(-1, 1, 2 * LARGE).reshape(1, 2, 1, LARGE)
    return images, other.to(memory_format=torch.channels_last)


def _convolved(hidden: Tensor, value: Any) -> Tensor:
    images, other = value
    for each in value:
        assert each.is_contiguous(memory_format=torch.channels_last) and not each.is_contiguous()
    kernel = torch.linspace(-1, 1, 4).reshape(2, 2, 1, 1).to(memory_format=torch.channels_last)
    made = torch.nn.functional.conv2d(images, kernel)
    assert made.is_contiguous(memory_format=torch.channels_last)
    wide = torch.nn.functional.conv2d(other, kernel)[..., :WIDTH].sum((0, 1, 2))
    return hidden + made.reshape(hidden.shape) + wide


def _in_place(hidden: Tensor, value: Any) -> Tensor:
    value["mask"].logical_not_()
    value["bias"].mul_(0.5)
    return hidden.masked_fill_(value["mask"].clone(), 0.0).add_(value["bias"])


def _aliased(hidden: Tensor, value: Any) -> Tensor:
    assert value[0] is value[1]["again"]
    return hidden + value[0] * value[1]["again"]


def _growing(first: First, x: Tensor, ids: Tensor) -> Any:
    """A cache that grows with every call, and a None that becomes a tensor."""
    count = first.calls % 4
    cache = [torch.full((LARGE,), float(i)) for i in range(count)]
    return {"cache": cache, "bias": first.extra(x) if count % 2 else None}


def _grown(hidden: Tensor, value: Any) -> Tensor:
    bias = 0.0 if value["bias"] is None else value["bias"]
    return hidden + bias + sum(float(entry[0]) for entry in value["cache"])


def _many(first: First, x: Tensor, ids: Tensor) -> Any:
    rows = list(first.extra(x).unbind(1))
    return [rows[i % WIDTH] * (i + 1) for i in range(100)] + [torch.arange(i) for i in range(30)]


def _checkpointed(reentrant: bool) -> Mapping[str, Any]:
    return {"pipeline": {"activation_checkpoint_interval": 1, "use_reentrant": reentrant}}


def _typical(first: First, x: Tensor, ids: Tensor) -> Any:
    """Two more differentiable leaves, a large mask that is worked on in place, a number."""
    mask = torch.zeros(LARGE, len(x), dtype=torch.bool)
    mask[0] = ids[:, 0] > 0
    return {"skip": first.extra(x), "wide": first.extra(x).double(), "mask": mask, "scale": 0.3}


def _use_typical(hidden: Tensor, value: Any) -> Tensor:
    value["mask"].logical_not_()
    mixed = hidden + value["skip"] * value["scale"] + value["wide"].to(hidden.dtype)
    return mixed.masked_fill(value["mask"][0, :, None].clone(), 0.0)


def _averaged(first: First, x: Tensor, ids: Tensor) -> Tensor:
    """A moving average that is kept, graph and all, of what evaluation sees."""
    value = first.extra(x)
    if not torch.is_grad_enabled():
        first.average = 0.9 * getattr(first, "average", 0.5) + value.mean()
    return value * getattr(first, "average", 0.5)


def _moody(first: First, x: Tensor, ids: Tensor) -> Any:
    """What evaluation sends differs in a str, a bool and a None."""
    training = torch.is_grad_enabled()
    return {
        "mode": "training" if training else "evaluation",
        "training": training,
        "mask": torch.linspace(-1, 1, WIDTH) if training else None,
        "skip": first.extra(x),
    }


def _use_moody(hidden: Tensor, value: Any) -> Tensor:
    assert (value["mode"] == "training") is value["training"] is (value["mask"] is not None)
    return hidden + value["skip"] + (value["mask"] if value["training"] else 0.0)


def _in_turn(first: First, x: Tensor, ids: Tensor) -> Tensor:
    """Detached in the first micro-batch, attached in the second, and so on."""
    value = first.extra(x)
    return value.detach() if first.calls % 2 else value


_ALL = frozenset({0, 1, 3})
"""Evaluation before the first step, between two, and after the last."""

typical = functools.partial(Row, give=_typical, take=_use_typical)

ROWS: dict[str, Row] = {
    "float mask without gradient": Row(give=_positions, take=_added),
    "unused float with gradient": Row(give=_cast(torch.float32)),
    "unused float without gradient": Row(give=_positions),
    "bypassed float with gradient": Row(give=_cast(torch.float32), take=_added, bypass=True),
    "bypassed float without gradient": Row(give=_positions, take=_added, bypass=True),
    "bool": Row(
        give=lambda first, x, ids: ids > 0, take=lambda hidden, mask: hidden.masked_fill(mask, 0.1)
    ),
    "None": Row(take=lambda hidden, value: hidden + (3.0 if value is not None else 0.0)),
    "int, float, str": Row(
        give=lambda first, x, ids: {
            "step": first.calls,
            "scale": 0.1,
            "kind": "rotary",
            "big": 2**70,
            "on": True,
        },
        take=_plain,
    ),
    "ModelOutput": Row(
        give=lambda first, x, ids: BaseModelOutput(
            last_hidden_state=first.extra(x), hidden_states=(torch.cos(x[0]), ids > 0)
        ),
        take=_model_output,
    ),
    "dict, namedtuple, dataclass": Row(
        give=lambda first, x, ids: {
            "mask": ids > 0,
            3: 0.25,
            "pair": Pair(first.extra(x), torch.tensor(0.5)),
            "rotary": Rotary(torch.cos(x[0]), torch.sin(x)),
            "empty": ([], {}),
        },
        take=_nested,
    ),
    "130 tensors": Row(give=_many, take=lambda hidden, value: hidden + sum(value[:100])[:, None]),
    "100 large tensors": Row(
        give=lambda first, x, ids: [torch.full((LARGE,), i) for i in range(100)],
        take=lambda hidden, value: hidden + sum(entry[0] for entry in value) / 4950,
    ),
    "0-dim, empty, transposed, expanded": Row(
        give=lambda first, x, ids: (
            first.extra(x).sum(),
            first.extra(x)[:0, :3],
            first.extra(x).t(),
            first.extra(x)[:, 0].clone()[:, None].expand(BATCH, WIDTH),
            first.extra(x).t()[:, None].expand(WIDTH, 3, BATCH),
        ),
        take=_shapes,
    ),
    "channels last": Row(give=_channels_last, take=_convolved),
    "fp64": Row(give=_cast(torch.float64), take=_added),
    "bf16": Row(give=_cast(torch.bfloat16), take=_added),
    "complex64": Row(
        give=lambda first, x, ids: torch.complex(first.extra(x), x),
        take=lambda hidden, value: hidden + (value * value).imag,
    ),
    "fp8, uint16": Row(
        give=lambda first, x, ids: (x.to(torch.float8_e4m3fn), ids.to(torch.uint16)),
        take=lambda hidden, value: hidden + value[0].float() + value[1].float(),
    ),
    "bf16 becomes fp32 in the middle": Row(
        give=_cast(torch.bfloat16), take=_added, change=lambda value: value.float()
    ),
    "int64 becomes fp32 in the middle": Row(
        give=lambda first, x, ids: ids, take=_added, change=lambda value: value.float() / 3
    ),
    "alias": Row(
        give=lambda first, x, ids: (lambda same: (same, {"again": same}))(first.extra(x)),
        take=_aliased,
    ),
    "in place on what arrived": Row(
        give=lambda first, x, ids: {"mask": ids > 0, "bias": torch.ones(WIDTH)}, take=_in_place
    ),
    "float mask, differentiable by its dtype": Row(
        give=_positions, take=_added, options={"differentiable": "by-dtype"}, evaluate=_ALL
    ),
    "nothing but dead floats": Row(
        give=_cast(torch.float32),
        take=lambda hidden, value: torch.full_like(hidden, float(value.shape[0])),
    ),
    "frozen first": typical(frozen=("first",)),
    "frozen middle": typical(frozen=("middle",)),
    "frozen all but last": typical(frozen=("first", "middle"), evaluate=_ALL),
    "adapters on a frozen base": typical(adapters=True),
    "evaluation first and between": typical(evaluate=_ALL),
    "average kept in evaluation": Row(give=_averaged, take=_added, evaluate=_ALL),
    "str, bool, None differ in evaluation": Row(give=_moody, take=_use_moody, evaluate=_ALL),
    "checkpointing, reentrant": typical(config=_checkpointed(True), evaluate=_ALL),
    "checkpointing, non-reentrant": typical(config=_checkpointed(False), evaluate=_ALL),
    "dynamic batch size": Row(
        give=lambda first, x, ids: (first.extra(x), ids > 0),
        take=lambda hidden, value: (hidden + value[0]).masked_fill(value[1], 0.0),
        options={"dynamic_shape": True},
        sizes=(4, 2, 9, 3, 600),
        evaluate=_ALL,
    ),
    "dynamic structure": Row(
        give=_growing, take=_grown, options={"dynamic_shape": True}, evaluate=_ALL
    ),
    "dynamic, average kept in evaluation": Row(
        give=_averaged, take=_added, options={"dynamic_shape": True}, evaluate=_ALL
    ),
    "dynamic, attached and detached in turn": Row(
        give=_in_turn, take=_added, options={"dynamic_shape": True}, evaluate=_ALL
    ),
    "attached and detached in turn, differentiable by its dtype": Row(
        give=_in_turn, take=_added, options={"differentiable": "by-dtype"}, evaluate=_ALL
    ),
    "dynamic and checkpointed": Row(
        give=_cast(torch.float64),
        take=_added,
        options={"dynamic_shape": True},
        config=_checkpointed(True),
        sizes=(4, 2, 9, 3),
        evaluate=_ALL,
    ),
}


def _precise(bf16: bool, zero: int, **arguments: Any) -> Row:
    config = {"bf16": {"enabled": bf16}, "zero_optimization": {"stage": zero}}
    return typical(config=config, bf16=bf16, **arguments)


PRECISIONS: dict[str, Row] = {
    f"{kind}, {'bf16' if bf16 else 'fp32'}, ZeRO-{zero}": _precise(bf16, zero, **arguments)
    for kind, arguments in {
        "trained": {"evaluate": _ALL},
        "frozen first": {"frozen": ("first",)},
        "frozen middle": {"frozen": ("middle",)},
        "frozen all but last": {"frozen": ("first", "middle")},
        "adapters": {"adapters": True},
        "lone leaf, in place": {
            "give": lambda first, x, ids: None,
            "take": lambda hidden, value: hidden.mul_(2.0),
        },
    }.items()
    for bf16 in (False, True)
    for zero in (0, 1)
}
"""The typical value, and a hidden state alone, under DeepSpeed's optimizers for a pipeline."""

TABLES = {
    "kinds": ROWS,
    "static kinds": {name: row for name, row in ROWS.items() if not row.options},
    "precisions": PRECISIONS,
}
