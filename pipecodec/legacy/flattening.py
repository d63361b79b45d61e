"""The flatten/unflatten contract of the file this project grew out of.

Containers become tuples, dict keys are dropped, empty containers may vanish and a float goes
through float32: here that is the contract. ``pipecodec.pack`` has none of these limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import torch

from ..errors import FrameError

__all__ = [
    "WrappedTypeCode",
    "decode_metadata",
    "encode_metadata",
    "flat_and_name_tensor_list",
    "flatten",
    "get_simple_nested_list_str",
    "unflatten",
    "unwrap_torch_tensor",
    "wrap_to_torch_tensor",
]

_INDEX = r"(?:0|[1-9][0-9]{0,6})"
_PATH = re.compile(rf"{_INDEX}(?:\.{_INDEX})*")
_CODE = re.compile(r"[0-9]{1,3}")

# Positions that no entry fills: each was an empty container. A fixed allowance keeps the memory
# for hostile metadata linear in its length.
_MAX_EMPTY = 4096

_VACANT = object()


class WrappedTypeCode(Enum):
    """The type of value that a flattened tensor stands for. Numbers are never reused."""

    TORCH_TENSOR = 0
    SCALAR = 1
    TRUE_NONE = 2
    LIST = 3
    TUPLE = 4


_CODES = frozenset(code.value for code in WrappedTypeCode)


def _unsupported(data: object) -> ValueError:
    return ValueError(
        f"Unsupported data type {type(data)}: pass tensors, None, bool, int, float, list or "
        f"tuple, or use pipecodec.pack"
    )


def get_simple_nested_list_str(data: Any) -> str:
    """Describe nested lists and tuples by the shapes of their tensors.

    A tensor of shape (1,) is shown as its value, which waits for its device. Raises ValueError
    for anything but tensors, None, bool, int, float, list and tuple.
    """
    if data is None:
        return "None"
    if isinstance(data, torch.Tensor):
        if data.shape == (1,):
            return f"scalar({data.item()})"
        return f"tensor{tuple(data.shape)}"
    if isinstance(data, (list, tuple)):
        return "[" + ",".join(map(get_simple_nested_list_str, data)) + "]"
    if isinstance(data, (int, float)):
        return str(data)
    raise _unsupported(data)


def wrap_to_torch_tensor(
    data: Any, device: torch.device | str | None
) -> tuple[torch.Tensor, WrappedTypeCode]:
    """Return `data` as a tensor, and the code to restore it by.

    None becomes int64 0; an int, int64; a bool, bool; a float, the default dtype. A tensor is
    returned as it is, wherever it lives. Raises ValueError for other types.
    """
    if isinstance(data, torch.Tensor):
        return data, WrappedTypeCode.TORCH_TENSOR
    if data is None:
        return torch.tensor(0, device=device), WrappedTypeCode.TRUE_NONE
    if isinstance(data, list):
        code = WrappedTypeCode.LIST
    elif isinstance(data, tuple):
        code = WrappedTypeCode.TUPLE
    elif isinstance(data, (int, float)):
        code = WrappedTypeCode.SCALAR
    else:
        raise _unsupported(data)
    return torch.tensor(data, device=device), code


def unwrap_torch_tensor(tensor: Any, desired_type: WrappedTypeCode | int) -> Any:
    """Reverse :func:`wrap_to_torch_tensor`. Raises ValueError for an unknown code."""
    code = WrappedTypeCode(desired_type)
    if code is WrappedTypeCode.TRUE_NONE:
        return None
    if code is WrappedTypeCode.TORCH_TENSOR:
        return tensor
    if code is WrappedTypeCode.TUPLE:
        return tuple(tensor.tolist())
    if code in (WrappedTypeCode.LIST, WrappedTypeCode.SCALAR):
        return tensor.tolist()
    raise ValueError(f"Unsupported type code {code}")


def flat_and_name_tensor_list(data: Any, name: str, suffix: str) -> list[tuple[str, Any]]:
    """Name a value and, in lists and tuples that directly hold a tensor, every item.

    The value is ``name + suffix``, its items ``.0``, ``.1``, ... below it. A dict is named as a
    whole.
    """
    named = [(f"{name}{suffix}", data)]
    if isinstance(data, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in data):
        for index, item in enumerate(data):
            named += flat_and_name_tensor_list(item, name, f"{suffix}.{index}")
    return named


def encode_metadata(metadata: Iterable[tuple[str, int]]) -> str:
    """Join (path, code) pairs to ``path,code|path,code|...``."""
    return "|".join(f"{path},{code}" for path, code in metadata)


def decode_metadata(metadata_str: str) -> list[list[str]]:
    """Split the result of :func:`encode_metadata` into ``[path, code]`` lists of strings.

    Raises FrameError, which names the entry, unless each is a dotted path of decimal indices
    and a known :class:`WrappedTypeCode`.
    """
    if not metadata_str:
        return []
    metadata = [entry.split(",") for entry in metadata_str.split("|")]
    for number, entry in enumerate(metadata):
        _check_entry(number, entry)
    return metadata


def flatten(
    outputs: Any,
    device: torch.device | str | None,
    path: str = "",
    metadata: list[tuple[str, int]] | None = None,
    ret: list[torch.Tensor] | None = None,
) -> tuple[list[tuple[str, int]], list[torch.Tensor]]:
    """Flatten nested lists, tuples and dict values into tensors.

    Returns (metadata, tensors) of equal length: per tensor its path, such as ``"0.1"``, and its
    :class:`WrappedTypeCode` value. `metadata` and `ret` are extended if given. Raises ValueError
    for a leaf that is not a tensor, None, bool, int or float.
    """
    metadata = [] if metadata is None else metadata
    ret = [] if ret is None else ret
    items = outputs.values() if isinstance(outputs, dict) else outputs
    for index, output in enumerate(items):
        here = f"{path}.{index}" if path else str(index)
        if isinstance(output, (list, tuple, dict)):
            flatten(output, device, here, metadata, ret)
        else:
            tensor, code = wrap_to_torch_tensor(output, device)
            ret.append(tensor)
            metadata.append((here, code.value))
    return metadata, ret


def unflatten(args: Sequence[Any], metadata: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Rebuild the nested structure as tuples.

    `metadata` comes from :func:`flatten` or :func:`decode_metadata`. Time and memory are linear
    in its length. Raises FrameError, which names the entry, if counts differ, an entry is
    malformed, two paths overlap, or more than 4096 positions stay empty.
    """
    if len(args) != len(metadata):
        raise FrameError(f"{len(metadata)} metadata entries describe {len(args)} tensors")
    root = _Node()
    parents: list[tuple[_Node, _Node, int]] = []
    allowance = _MAX_EMPTY + len(metadata)
    for number, (arg, entry) in enumerate(zip(args, metadata, strict=True)):
        path, code = _check_entry(number, entry)
        *outer, last = map(int, path.split("."))
        node = root
        for index in outer:
            allowance = _make_room(node, index, allowance, number, path)
            if node[index] is _VACANT:
                node[index] = _Node()
                parents.append((node[index], node, index))
            node = node[index]
            if not isinstance(node, _Node):
                raise FrameError(
                    f"metadata entry {number}: {_short(path)} lies inside another entry"
                )
        allowance = _make_room(node, last, allowance, number, path)
        if node[last] is not _VACANT:
            raise FrameError(f"metadata entry {number}: {_short(path)} is taken by another entry")
        node[last] = _leaf(arg, code, number, path)
    # A container is made before those inside it, so backwards every part is ready.
    for node, parent, index in reversed(parents):
        parent[index] = _closed(node)
    return _closed(root)


class _Node(list[Any]):
    """A container under construction; a leaf that is a list is not one."""


def _check_entry(number: int, entry: Sequence[Any]) -> tuple[str, int]:
    if len(entry) != 2:
        raise FrameError(f"metadata entry {number}: {len(entry)} fields instead of path and code")
    path, code = entry
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise FrameError(f"metadata entry {number}: {_short(path)} is not a path of indices")
    value = int(code) if isinstance(code, str) and _CODE.fullmatch(code) else code
    if type(value) is not int or value not in _CODES:
        raise FrameError(f"metadata entry {number}: {_short(code)} is not a known type code")
    return path, value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _make_room(node: list[Any], index: int, allowance: int, number: int, path: str) -> int:
    """Extend `node` to hold `index` and return the rest of the allowance."""
    missing = index + 1 - len(node)
    if missing <= 0:
        return allowance
    if missing - 1 > allowance:
        raise FrameError(
            f"metadata entry {number}: {_short(path)} leaves more than {_MAX_EMPTY} positions empty"
        )
    node.extend([_VACANT] * missing)
    return allowance - (missing - 1)


def _leaf(arg: Any, code: int, number: int, path: str) -> Any:
    try:
        return _tupleize(unwrap_torch_tensor(arg, code))
    except (AttributeError, TypeError, ValueError):
        raise FrameError(
            f"metadata entry {number}: {_short(path)} has code {code}, which does not fit a "
            f"{type(arg).__name__}"
        ) from None


def _tupleize(value: Any) -> Any:
    return tuple(map(_tupleize, value)) if isinstance(value, (list, tuple)) else value


def _closed(node: list[Any]) -> tuple[Any, ...]:
    return tuple(() if item is _VACANT else item for item in node)
