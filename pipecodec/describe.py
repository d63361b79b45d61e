"""A frame, or the frame a value would have, as text and as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from . import _C
from .codec import pack

__all__ = ["Leaf", "describe", "leaves", "type_name"]

_DEEPEST = 40
"""Levels that are indented; a frame may have a thousand, with any number of lines in the last."""

_NAMES = {
    "TORCH_TENSOR": "tensor",
    "TRUE_NONE": "None",
    "NAMED_TUPLE": "namedtuple",
    "FROZEN_SET": "frozenset",
    "DEFAULT_DICT": "defaultdict",
    "ORDERED_DICT": "OrderedDict",
    "BIG_INT": "int",
}


class Leaf(NamedTuple):
    """One tensor of a frame."""

    path: str
    """Where it stands in the value, such as ``outputs[2]['mask']``."""
    dtype: str
    """Its dtype's name without ``torch.``."""
    shape: tuple[int, ...] | None
    """None for a nested tensor."""
    route: str
    """"slot", "raw slot", "tunnel" or "frame": how its bits travel."""
    requires_grad: bool
    nbytes: int
    """Of its elements; in the frame and in a raw slot those of an expanded dimension count once."""
    strides: tuple[int, ...] | None = None
    """In elements; None for a contiguous tensor, and for a slot that is not there."""


def leaves(tensors: Sequence[Tensor]) -> list[Leaf]:
    """The leaves of packed tensors (the last of which is the frame), in the value's order.

    Raises:
        FrameError: the last tensor is not a frame of this version.
    """
    return [
        Leaf(path, *leaf)
        for _, path, _, kind, _, _, leaf in _C.ReceivedFrame(tensors).rows()
        if kind == "TORCH_TENSOR"
    ]


def describe(frame_or_obj: Any) -> str:
    """Show the contents of a frame: a line for every node, with its type, value, shape and route.

    Args:
        frame_or_obj: a frame (a 1-D uint8 tensor), or packed tensors (a tuple that ends in one), or
            any other value, which is packed first.

    Raises:
        FrameError: a 1-D uint8 tensor that is no frame.
        UnsupportedTypeError: a value that cannot be packed.
    """
    if _is_frame(frame_or_obj):
        tensors: Sequence[Tensor] = (frame_or_obj,)
    elif isinstance(frame_or_obj, tuple) and frame_or_obj and _is_packed(frame_or_obj):
        tensors = frame_or_obj
    else:
        tensors = pack(frame_or_obj)
    opened = _C.ReceivedFrame(tensors)
    head = (
        f"frame of {tensors[-1].numel()} bytes, {opened.used} used, "
        f"structure {opened.structure:016x}"
    )
    return "\n".join([head, *map(_line, opened.rows())])


def type_name(kind: str) -> str:
    """Return the type of a frame's node as its users write it, such as "tensor" or "int"."""
    return _NAMES.get(kind, kind.removeprefix("CONST_").lower())


def _is_frame(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1 and str(value.dtype) == "torch.uint8"


def _is_packed(value: tuple[Any, ...]) -> bool:
    magic = [0x89, 0x50, 0x43, 0x46]
    return (
        all(isinstance(item, Tensor) for item in value)
        and _is_frame(value[-1])
        and value[-1][:4].tolist() == magic
    )


def _line(row: tuple[int, str, str, str, str, int, Any]) -> str:
    depth, _, label, kind, text, children, leaf = row
    name = type_name(kind)
    indent = "  " * min(depth, _DEEPEST)
    parts = [f"{indent}{label}:", name] if name != text else [f"{indent}{label}:"]
    if leaf is not None:
        dtype, shape, route, requires_grad, nbytes, strides = leaf
        dims = "nested" if shape is None else list(shape)
        layout = "" if strides is None else f" with strides {list(strides)}"
        parts.append(f"{dtype} {dims}{layout}, {nbytes} bytes, {route}")
        parts.extend(["requires grad"] if requires_grad else [])
    elif children:
        parts.append(f"{text} ({children})".strip())
    elif text:
        parts.append(text)
    return " ".join(parts)
