"""Random values of every kind that a frame can hold, made fast: thousands a second."""

from __future__ import annotations

import collections
import random
import struct
from collections.abc import Iterator
from typing import Any

import torch

from tests.corpus import Colour, Frozen, Level, Outer, Output, Pair, Point, Slotted

__all__ = ["random_value", "random_values"]

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
SIZES = [0, 1, 2, 3, 8]


def tensor(rng: random.Random) -> torch.Tensor:
    """A tensor with random bits, in random strides; one in 40 has more than 4 KiB."""
    dtype = rng.choice(DTYPES)
    shape = [rng.choice(SIZES) for _ in range(rng.randrange(4))]
    if rng.random() < 0.025:
        shape = [rng.randrange(600, 40_000)]
    count = 1
    for size in shape:
        count *= size
    raw = torch.frombuffer(bytearray(rng.randbytes(8 * count + 8)), dtype=torch.uint8)
    boolean = dtype is torch.bool
    made = (raw[:count] % 2).bool() if boolean else raw[: 8 * count].view(dtype)[:count]
    made = made.reshape(shape)
    if len(shape) == 2 and rng.random() < 0.3:
        return made.t()
    if made.is_floating_point() and rng.random() < 0.1:
        made.requires_grad_()
    return made


def scalar(rng: random.Random) -> Any:
    """A value without others inside."""
    match rng.randrange(12):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.randrange(-300, 300)
        case 3:
            return rng.randrange(-(2**80), 2**80)
        case 4:
            return struct.unpack("<d", rng.randbytes(8))[0]
        case 5:
            return complex(rng.random(), -rng.random())
        case 6:
            return "".join(rng.choice("aé日\0\N{GRINNING FACE}") for _ in range(rng.randrange(9)))
        case 7:
            return rng.randbytes(rng.randrange(20))
        case 8:
            return slice(rng.randrange(9), None, -1)
        case 9:
            return range(rng.randrange(9), 40, 3)
        case 10:
            return rng.choice([*Colour, *Level, torch.float16, torch.Size([2, 0])])
        case _:
            return torch.device("cuda", rng.randrange(4))


def key(rng: random.Random) -> Any:
    """A value that may be a key."""
    match rng.randrange(4):
        case 0:
            return rng.randrange(-9, 2**66)
        case 1:
            return f"key {rng.randrange(99)}"
        case 2:
            return (rng.randrange(9), "a", frozenset([rng.randrange(5)]))
        case _:
            return rng.choice([None, 2.5, b"b", Colour.RED])


def random_value(rng: random.Random, depth: int = 3) -> Any:
    """A value, nested at most ``depth`` times; some tensors stand in it twice."""
    drawn = rng.random()
    if depth == 0 or drawn < 0.25:
        return tensor(rng) if rng.random() < 0.5 else scalar(rng)
    items = [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if items and rng.random() < 0.2:
        items.append(items[0])
    pairs = {key(rng): item for item in items}
    first = items[0] if items else None
    match rng.randrange(13):
        case 0:
            return collections.OrderedDict(pairs)
        case 1:
            return collections.defaultdict(list, pairs)
        case 2:
            return collections.deque(items, 7)
        case 3:
            return {key(rng) for _ in items}
        case 4:
            return Point(first, items)
        case 5:
            return Output(first, items)
        case 6:
            return Frozen(items)
        case 7:
            return Slotted(first)
        case 8:
            return Pair(first, items, key(rng))
        case 9:
            return Outer.Inner(items)
        case 10:
            return tuple(items)
        case 11:
            return pairs
        case _:
            return items


def random_values(seed: object, count: int) -> Iterator[Any]:
    """``count`` values, the same for the same seed; one in three is its predecessor again."""
    rng = random.Random(repr(seed))
    value = random_value(rng)
    for _ in range(count):
        if rng.random() < 0.67:
            value = random_value(rng)
        yield value
