"""What may cross a boundary, one row a kind, each with the stages that send and use it.

Every row is a chain First, Middle..., Last. First makes ``hidden`` and the row's ``value``; each
Middle uses both, or with ``bypass`` only ``hidden``; Last uses both.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BATCH", "ROWS", "TABLES", "WIDTH", "Row", "build"]

WIDTH, BATCH = 8, 4
LARGE = 1025
"""Elements of a tensor that has a slot of its own whatever its dtype, but for one-byte ones."""

Pair = namedtuple("Pair", "scale shift")


@dataclass
class Rotary:
    cos: Tensor
    sin: Tensor
    base: float = 1e4


@dataclass(frozen=True)
class Row:
    """One kind of value and how it is trained.

    ``give(first, x, ids)`` makes the value, ``take(hidden, value)`` uses it, ``change(value)`` is
    what a middle stage sends on instead of it. ``frozen`` names the stages without a trainable
    parameter: "first", "middle". ``options`` are for ``pipecodec.deepspeed.initialize``,
    ``config`` is merged into DeepSpeed's. ``evaluate`` holds the steps before which ``eval_batch``
    runs once; ``sizes`` are the batch sizes of successive micro-batches, of which those of
    evaluations are one smaller if they differ. ``bf16`` repeats what ``config`` says.
    """

    give: Callable[[First, Tensor, Tensor], Any] = lambda first, x, ids: None
    take: Callable[[Tensor, Any], Tensor] = lambda hidden, value: hidden
    change: Callable[[Any], Any] | None = None
    bypass: bool = False
    frozen: tuple[str, ...] = ()
    adapters: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluate: frozenset[int] = frozenset()
    sizes: tuple[int, ...] = (BATCH,)
    bf16: bool = False


class Linear(nn.Linear):
    """A layer, with a low-rank adapter beside the frozen weight if asked for."""

    def __init__(self, width: int, adapter: bool) -> None:
        super().__init__(WIDTH, width)
        self.down = self.up = None
        if adapter:
            self.requires_grad_(False)
            self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.down is None else out + self.up(self.down(x))


class First(nn.Module):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.linear, self.extra = (Linear(WIDTH, row.adapters) for _ in range(2))
        self.calls = 0
        self.requires_grad_("first" not in row.frozen)

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, Any]:
        self.calls += 1
        x = x.to(self.linear.weight.dtype)
        return {"hidden": self.linear(x).tanh() * 2, "value": self.row.give(self, x, ids)}


class Middle(nn.Module):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.linear = Linear(WIDTH, row.adapters)
        self.requires_grad_("middle" not in row.frozen)

    def forward(self, hidden: Tensor, value: Any) -> dict[str, Any]:
        made = {"hidden": self.row.take(self.linear(hidden).tanh() + hidden, value)}
        return made if self.row.change is None else {**made, "value": self.row.change(value)}


class Bypassed(Middle):
    def forward(self, hidden: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(hidden).tanh() + hidden}


class Last(nn.Module):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.linear = nn.Linear(WIDTH, 3)

    def forward(self, hidden: Tensor, value: Any) -> Tensor:
        out: Tensor = self.linear(self.row.take(hidden, value))
        return out


def build(row: Row, stages: int) -> nn.ModuleList:
    """Return the stages' modules, with the same weights in every process."""
    torch.manual_seed(7)
    middle = Bypassed if row.bypass else Middle
    return nn.ModuleList([First(row), *(middle(row) for _ in range(stages - 2)), Last(row)])


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


def _shapes(hidden: Tensor, value: Any) -> Tensor:
    zero_dim, empty, transposed, expanded = value
    assert zero_dim.shape == () and empty.shape == (0, 3) and expanded.shape == (BATCH, WIDTH)
    return hidden * zero_dim + empty.sum() + transposed.t() + expanded


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
    mask = torch.zeros(LARGE, BATCH, dtype=torch.bool)
    mask[0] = ids[:, 0] > 0
    return {"skip": first.extra(x), "wide": first.extra(x).double(), "mask": mask, "scale": 0.3}


def _use_typical(hidden: Tensor, value: Any) -> Tensor:
    value["mask"].logical_not_()
    mixed = hidden + value["skip"] * value["scale"] + value["wide"].to(hidden.dtype)
    return mixed.masked_fill(value["mask"][0, :, None].clone(), 0.0)


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
            first.extra(x)[:, :1].expand(BATCH, WIDTH),
        ),
        take=_shapes,
    ),
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
        "frozen all but last": {"frozen": ("first", "middle")},
        "adapters": {"adapters": True},
    }.items()
    for bf16 in (False, True)
    for zero in (0, 1)
}
"""The typical value under the optimizers that DeepSpeed has for a pipeline."""

TABLES = {
    "kinds": ROWS,
    "static kinds": {name: row for name, row in ROWS.items() if not row.options},
    "precisions": PRECISIONS,
}
