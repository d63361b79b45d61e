"""Regressions, each with its story: crashes, foreign code that ran, time out of proportion."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import subprocess
import sys
import typing
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecodec import Codec, FrameError, UnsupportedTypeError, describe, pack, unpack
from tests import oracle
from tests.corpus import same
from tests.test_frames import frame, node

RAW = frame(bytes([0, 6, 1, 1]), b"\3", leaves=1)
"""A float32 leaf of 3 elements in a raw slot."""


class Wrapper(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called")


def emptied(tensor: torch.Tensor) -> torch.Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def fake(size: int, dtype: torch.dtype) -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(size, dtype=dtype)


STAND_INS: dict[str, Callable[[int, torch.dtype], Any]] = {
    "fake": fake,
    "subclass": lambda n, dtype: torch.Tensor._make_wrapper_subclass(Wrapper, (n,), dtype=dtype),
    "emptied": lambda n, dtype: emptied(torch.zeros(n, dtype=dtype)),
    "meta": lambda n, dtype: torch.zeros(n, dtype=dtype, device="meta"),
    "sparse": lambda n, dtype: torch.zeros(n, dtype=dtype).to_sparse(),
    "nested": lambda n, dtype: torch.nested.nested_tensor(
        [torch.zeros(n, dtype=dtype)], layout=torch.jagged
    ),
    "functional": lambda n, dtype: torch._to_functional_tensor(torch.zeros(n, dtype=dtype)),
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_tensors_without_memory_crashed_the_reader(kind: str) -> None:
    with pytest.raises(FrameError, match="is not a frame"):
        unpack((STAND_INS[kind](256, torch.uint8),))
    with pytest.raises(FrameError, match="the frame says 12 raw bytes"):
        unpack((STAND_INS[kind](12, torch.uint8), RAW))


def test_a_batched_tensor_is_no_frame() -> None:
    good = pack(5)[-1]
    with pytest.raises(FrameError, match="is not a frame"):
        torch.vmap(lambda row: unpack((row,)))(torch.stack([good, good]))


@dataclasses.dataclass
class New:
    x: Any = 0

    def __new__(cls, *_: Any) -> New:
        raise SystemExit("the class's own code ran")


@dataclasses.dataclass
class Setter:
    x: Any = 0


Setter.x = property(lambda self: 1, lambda self, value: pytest.fail("a setter ran"))  # type: ignore[assignment]


@dataclasses.dataclass
class Abstract(abc.ABC):
    x: Any = 0

    @abc.abstractmethod
    def method(self) -> None: ...


@dataclasses.dataclass
class Variables:
    y: typing.ClassVar[int] = 0
    x: Any = 0


@dataclasses.dataclass
class Failure(Exception):
    x: Any = 0


def dataclass_frame(name: str, *fields: str) -> torch.Tensor:
    pairs = b"".join(b"\x0f" + oracle.text(field) + b"\2" for field in fields)
    return node(24, f"tests.test_bugs:{name}", rest=bytes([len(fields)]) + pairs)


def test_a_dataclass_is_made_without_its_new() -> None:
    made = unpack((dataclass_frame("New", "x"),))
    assert type(made) is New
    assert made.x is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dataclass_frame("Setter", "x"), r"field 'x' of dataclass .* is set by code of its class"),
        (dataclass_frame("Abstract", "x"), "is an abstract class"),
        (dataclass_frame("Variables", "y"), "field 'y' of .* is not known in this process"),
        (dataclass_frame("Variables", "x", "x"), "field 'x' of .* comes twice"),
        (dataclass_frame("Failure", "x"), "extends a built-in type"),
    ],
)
def test_dataclasses_that_would_run_code(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        unpack((bad,))


def test_they_are_refused_when_sent_too() -> None:
    setter = Setter.__new__(Setter)
    with pytest.raises(UnsupportedTypeError, match=r"outputs\[0\] is of a dataclass.*property"):
        pack([setter])
    with pytest.raises(UnsupportedTypeError, match="extends a built-in type .* register"):
        pack(Failure())
    assert same(unpack(pack(Variables(3))).x, 3)


def colliding(size: int) -> list[int]:
    """Return numbers of different hashes that a dict of `size` places probes along one path."""
    path = [0]
    for _ in range(size // 2):
        path.append((5 * path[-1] + 1) % size)
    on_path, early = set(path), set(path[: size // 4])
    found: list[int] = []
    for number in itertools.count(1 << 25):
        perturb, at = number, number % size
        for _ in range(6):
            if at not in on_path:
                break
            perturb >>= 5
            at = (at * 5 + perturb + 1) % size
        else:
            if at in early:
                found.append(number)
        if len(found) == size // 10:
            return path + found
    raise AssertionError


def constants(values: list[int], code: int, after: bytes) -> torch.Tensor:
    items = b"".join(oracle.Encoder().node(value, True) + after for value in values)
    return frame(bytes([code]) + oracle.varint(len(values)) + items)


def test_keys_along_one_probing_path_took_the_square_of_their_number() -> None:
    keys = colliding(8192)
    plain = list(range(len(keys)))
    assert list(unpack((constants(plain, 17, b"\2"),))) == plain
    with pytest.raises(FrameError, match="the keys collide"):
        unpack((constants(keys, 17, b"\2"),))


def family(depth: int, width: int) -> list[bytes]:
    """Return frozensets of one hash, of frozensets of one hash, and so on."""
    modulus = 2**61 - 1
    if depth == 0:
        return [oracle.Encoder().node(i * modulus, True) for i in range(1, width + 2)]
    inner = family(depth - 1, width)
    every = range(width + 1)
    return [bytes([22, width]) + b"".join(inner[:i] + inner[i + 1 :]) for i in every]


@pytest.mark.parametrize(("depth", "width"), [(12, 2), (4, 8)])
def test_nested_sets_of_one_hash_took_far_longer_than_their_size(depth: int, width: int) -> None:
    first, second, *_ = family(depth, width)
    with pytest.raises(FrameError, match="the keys collide"):
        unpack((frame(bytes([21, 2]) + first + second),))


@pytest.mark.parametrize(
    "keys",
    [
        *[[i << shift for i in range(3000)] for shift in (0, 1, 5, 16, 20, 33, 50)],
        [-i for i in range(3000)],
        [i / 3 for i in range(3000)],
        [float(1 << i) for i in range(1000)],
        list(itertools.product([-2, -1, 0, 1, 2], repeat=4)),
        [frozenset(pair) for pair in itertools.combinations(range(-40, 40), 2)],
        [(i, str(i)) for i in range(2000)],
        [i * (2**61 - 1) for i in range(20)],
        [10**i for i in range(600)],
        [str(i) for i in range(5000)],
        [complex(i, -i) for i in range(2000)],
    ],
    ids=lambda keys: f"{len(keys)} keys like {keys[-1]!r:.40}",
)
def test_keys_that_were_not_made_to_collide_are_taken(keys: list[Any]) -> None:
    for value in (dict.fromkeys(keys), set(keys), frozenset(keys), {frozenset(keys): None}):
        assert same(unpack(pack(value)), value)


def test_quantized_bytes_made_tensors_that_raise() -> None:
    with pytest.raises(FrameError, match="a quantized tensor can only be a slot"):
        unpack((frame(bytes([0, 12, 3, 1]), b"\1", payload=bytes(16), leaves=1),))


def test_describing_needs_no_class() -> None:
    unknown = node(23, "nowhere:Point", rest=b"\1\2")
    assert "namedtuple nowhere:Point" in describe(unknown)
    with pytest.raises(FrameError, match="knows no class"):
        unpack((unknown,))


def test_describing_deep_structures_stays_small() -> None:
    wide: Any = [None] * 2000
    for _ in range(900):
        wide = [wide]
    assert len(describe(wide)) < 500_000


def test_zeros_in_the_payload_are_checked_for_a_known_structure_too() -> None:
    structure = bytes([0, 0, 3, 1])
    right = frame(structure, b"\1", payload=bytes([7, *bytes(15)]), leaves=1)
    wrong = frame(structure, b"\1", payload=bytes([7, 1, *bytes(14)]), leaves=1)
    codec = Codec()
    for _ in range(2):
        assert codec.unpack((right,)).tolist() == [7]
        with pytest.raises(FrameError, match="must be zero"):
            codec.unpack((wrong,))


def test_a_range_that_could_not_be_read_is_not_written() -> None:
    longest = range(2**8190)
    assert unpack(pack(longest)) == longest
    with pytest.raises(UnsupportedTypeError, match=r"outputs\[0\] is a range .* than 1024 bytes"):
        pack([range(2**8200)])


def test_paths_of_differentiable_leaves_took_the_square_of_their_number() -> None:
    leaves = [torch.ones(1) for _ in range(20_000)]
    codec = Codec(transport="tunnel", differentiable={"outputs[7]", "outputs[19999]"})
    tunnel, frame_ = codec.pack(leaves)
    assert tunnel.numel() == 2 * 4 + 4  # its tail
    assert len(codec.unpack((tunnel, frame_))) == 20_000


@pytest.mark.slow
def test_remembered_plans_are_bounded_by_their_size() -> None:
    """64 frames of a megabyte each were kept."""
    script = """
import sys, torch
from pipecodec import Codec, pack
codec = Codec()
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = None
for n in range(24):
    codec.unpack(pack([None] * (500_000 + n)))
    if n == 3:
        before = rss()
sys.exit(rss() - before > 100_000_000)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0
