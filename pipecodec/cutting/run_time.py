"""The few functions that a stage's generated source calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn

from ..errors import PartitionError
from ..tape.compare import equal
from ..tape.observe import form_of

__all__ = [
    "BOTH",
    "miscounted",
    "other_input",
    "other_mode",
    "other_way",
    "tapped",
    "wrong_precision",
]

_OBSERVE = "pass such a batch in examples= to pipecodec.partition"

BOTH = "; if the model takes both as it is, pass such a batch in examples="


def other_way(place: str, label: str, expected: Any, found: Any) -> NoReturn:
    """Raise for a guard that does not hold."""
    raise PartitionError(
        f"{place}: when the model was observed, Python was told {_short(expected)} (by {label}), "
        f"and now {_short(found)}, so it could go another way; {_OBSERVE}"
    )


def other_input(place: str, form: Any, value: Any) -> NoReturn:
    """Raise for an input of another kind than the observed one."""
    dtypes = _dtypes(form, form_of(value))
    if dtypes is not None:
        expected, found = dtypes
        again = ""
        if expected.is_floating_point and found.is_floating_point:
            again = f", or cut the model in that precision (model.to({found}) before partition)"
        raise PartitionError(
            f"{place} has a tensor of {found}, which was {expected} when the model was observed; "
            f"pass it as {expected} (.to({expected})){again}{BOTH} to pipecodec.partition"
        )
    raise PartitionError(
        f"{place} is {_short(value)}, but was {_formed(form)} when the model was observed; "
        f"{_OBSERVE}"
    )


def other_mode(training: bool) -> NoReturn:
    """Raise for a stage in the mode in which the model was not observed."""
    modes = "training", "evaluation"
    observed, now = modes if training else modes[::-1]
    raise PartitionError(
        f"the model could be observed in {observed} only, and is in {now} now; part.cut.notes may "
        f"say why"
    )


def miscounted(place: str, label: str, expected: int, found: int) -> NoReturn:
    """Raise for a call that returns another number of values."""
    raise PartitionError(
        f"{place}: {label} gave {expected} values when the model was observed, and gives {found} "
        f"now, so Python could go another way; {_OBSERVE}"
    )


def wrong_precision(name: str, expected: Any, found: Any) -> NoReturn:
    """Raise for a value of another precision than the observed one."""
    raise PartitionError(
        f"{name} was {expected} when the model was observed, and is {found} now; casts between the "
        f"layers are as they were observed, so observe the model in the precision you train it in "
        f"(model.to(dtype), or torch.autocast around pipecodec.partition)"
    )


@contextmanager
def tapped(module: nn.Module, wanted: Sequence[tuple[str, int]]) -> Iterator[dict[Any, Any]]:
    """Catch the outputs of submodules that hooks of the model handed to code between the layers.

    `wanted` has pairs (name below `module`, number of the call).
    """
    taps: dict[Any, Any] = {}
    counts: dict[str, int] = {}
    handles = []

    def catching(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            counts[name] = counts.get(name, -1) + 1
            if (name, counts[name]) in wanted:
                taps[name, counts[name]] = output

        return hook

    for name in dict.fromkeys(name for name, _ in wanted):
        handles.append(module.get_submodule(name).register_forward_hook(catching(name)))
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _dtypes(form: Any, other: Any) -> tuple[torch.dtype, torch.dtype] | None:
    """Return the first two dtypes that differ, if two forms differ in dtypes alone."""
    pairs: list[tuple[torch.dtype, torch.dtype]] = []
    same = _match_dtypes(form, other, pairs)
    return pairs[0] if same and pairs else None


def _match_dtypes(one: Any, other: Any, pairs: list[tuple[torch.dtype, torch.dtype]]) -> bool:
    if len(one) != len(other) or one[0] != other[0]:
        return False
    if one[0] == "tensor":
        pairs += [(one[2], other[2])] if one[2] is not other[2] else []
        return bool(one[1] == other[1])
    if len(one) == 2:
        return equal(one[1], other[1])
    return one[1] == other[1] and all(
        _match_dtypes(a, b, pairs) for a, b in zip(one[2], other[2], strict=True)
    )


def _formed(form: Any) -> str:
    """Return words for a form as ``tape.observe.form_of`` gives it."""
    if form[0] == "tensor":
        return f"a tensor of {form[1]} dimensions and {form[2]}"
    return _short(form[1]) if len(form) == 2 else f"a {form[0].__name__} of {_short(form[1])}"


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {list(shape)} and {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
