"""Values that may cross a boundary, one row a kind.

Every row trains a chain First, Middle..., Last. First makes ``hidden`` and the row's ``value``;
each Middle uses both, or with ``bypass`` only ``hidden``; Last uses both.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from .crossing import (
    LARGE,
    Pair,
    Rotary,
    added,
    aliased,
    averaged,
    cast,
    channels_last,
    convolved,
    growing,
    grown,
    in_place,
    in_turn,
    many,
    model_output,
    moody,
    nested,
    plain,
    positions,
    several,
    shapes,
    use_moody,
    use_several,
)
from .stages import BATCH, WIDTH, Row

__all__ = ["ROWS", "TABLES"]


def _checkpointed(reentrant: bool) -> Mapping[str, Any]:
    return {"pipeline": {"activation_checkpoint_interval": 1, "use_reentrant": reentrant}}


_ALL = frozenset({0, 1, 3})
"""Evaluation before the first step, between two, and after the last."""

typical = functools.partial(Row, give=several, take=use_several)

ROWS: dict[str, Row] = {
    "float mask without gradient": Row(give=positions, take=added),
    "unused float with gradient": Row(give=cast(torch.float32)),
    "unused float without gradient": Row(give=positions),
    "bypassed float with gradient": Row(give=cast(torch.float32), take=added, bypass=True),
    "bypassed float without gradient": Row(give=positions, take=added, bypass=True),
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
        take=plain,
    ),
    "ModelOutput": Row(
        give=lambda first, x, ids: BaseModelOutput(
            last_hidden_state=first.extra(x), hidden_states=(torch.cos(x[0]), ids > 0)
        ),
        take=model_output,
    ),
    "dict, namedtuple, dataclass": Row(
        give=lambda first, x, ids: {
            "mask": ids > 0,
            3: 0.25,
            "pair": Pair(first.extra(x), torch.tensor(0.5)),
            "rotary": Rotary(torch.cos(x[0]), torch.sin(x)),
            "empty": ([], {}),
        },
        take=nested,
    ),
    "130 tensors": Row(give=many, take=lambda hidden, value: hidden + sum(value[:100])[:, None]),
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
        take=shapes,
    ),
    "channels last": Row(give=channels_last, take=convolved),
    "fp64": Row(give=cast(torch.float64), take=added),
    "bf16": Row(give=cast(torch.bfloat16), take=added),
    "complex64": Row(
        give=lambda first, x, ids: torch.complex(first.extra(x), x),
        take=lambda hidden, value: hidden + (value * value).imag,
    ),
    "fp8, uint16": Row(
        give=lambda first, x, ids: (x.to(torch.float8_e4m3fn), ids.to(torch.uint16)),
        take=lambda hidden, value: hidden + value[0].float() + value[1].float(),
    ),
    "bf16 becomes fp32 in the middle": Row(
        give=cast(torch.bfloat16), take=added, change=lambda value: value.float()
    ),
    "int64 becomes fp32 in the middle": Row(
        give=lambda first, x, ids: ids, take=added, change=lambda value: value.float() / 3
    ),
    "alias": Row(
        give=lambda first, x, ids: (lambda same: (same, {"again": same}))(first.extra(x)),
        take=aliased,
    ),
    "in place on received values": Row(
        give=lambda first, x, ids: {"mask": ids > 0, "bias": torch.ones(WIDTH)}, take=in_place
    ),
    "float mask, differentiable by its dtype": Row(
        give=positions, take=added, options={"differentiable": "by-dtype"}, evaluate=_ALL
    ),
    "nothing but dead floats": Row(
        give=cast(torch.float32),
        take=lambda hidden, value: torch.full_like(hidden, float(value.shape[0])),
    ),
    "frozen first": typical(frozen=("first",)),
    "frozen middle": typical(frozen=("middle",)),
    "frozen all but last": typical(frozen=("first", "middle"), evaluate=_ALL),
    "adapters on a frozen base": typical(adapters=True),
    "evaluation first and between": typical(evaluate=_ALL),
    "average kept in evaluation": Row(give=averaged, take=added, evaluate=_ALL),
    "str, bool, None differ in evaluation": Row(give=moody, take=use_moody, evaluate=_ALL),
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
        give=growing, take=grown, options={"dynamic_shape": True}, evaluate=_ALL
    ),
    "dynamic, average kept in evaluation": Row(
        give=averaged, take=added, options={"dynamic_shape": True}, evaluate=_ALL
    ),
    "dynamic, attached and detached in turn": Row(
        give=in_turn, take=added, options={"dynamic_shape": True}, evaluate=_ALL
    ),
    "attached and detached in turn, differentiable by its dtype": Row(
        give=in_turn, take=added, options={"differentiable": "by-dtype"}, evaluate=_ALL
    ),
    "dynamic and checkpointed": Row(
        give=cast(torch.float64),
        take=added,
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
