"""Invalid frames, and slots that do not fit, are refused: a test for each way, in reading order.

The bytes themselves are tested natively (csrc/tests/frame_test.cpp); these tests need Python.
"""

from __future__ import annotations

import contextlib
import random
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecodec import Codec, CodecError, FrameError, pack, unpack
from tests import oracle
from tests.corpus import Plain, same, structures


def tensor(data: bytes) -> torch.Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def frame(
    structure: bytes,
    shapes: bytes = b"",
    values: bytes = b"",
    payload: bytes = b"",
    leaves: int = 0,
) -> torch.Tensor:
    """Return a frame with a right header around any structure."""
    return tensor(oracle.seal(structure, shapes, values, payload, leaves))


def test_nothing() -> None:
    with pytest.raises(FrameError, match="nothing to unpack"):
        unpack(())


def test_not_a_tensor() -> None:
    with pytest.raises(FrameError, match=r"tensors\[0\] is not a tensor"):
        unpack((1, pack(1)[-1]))


@pytest.mark.parametrize(
    "last",
    [
        torch.ones(64),
        torch.ones(8, 8, dtype=torch.uint8),
        torch.ones(4, dtype=torch.uint8, device="meta"),
    ],
)
def test_last_is_not_a_frame(last: torch.Tensor) -> None:
    with pytest.raises(
        FrameError,
        match=r"tensors\[0\], the last one, is not a frame: .* 1-D tensor of dtype uint8",
    ):
        unpack((last,))


def test_too_short() -> None:
    with pytest.raises(FrameError, match="byte 5: a frame has a header of 48 bytes"):
        unpack((tensor(b"\x89PCF\x01"),))


def test_wrong_version() -> None:
    data = bytearray(pack(1)[-1].numpy().tobytes())
    data[4] = 9
    with pytest.raises(
        FrameError,
        match="byte 4: .* version 9, this build reads version 2; install the same pipecodec",
    ):
        unpack((tensor(bytes(data)),))


def test_a_codec_names_its_boundary() -> None:
    with pytest.raises(FrameError, match="^boundary 3→4: byte 0: not a pipecodec frame"):
        Codec(name="boundary 3→4").unpack((torch.zeros(256, dtype=torch.uint8),))


def test_too_many_and_too_few_slots() -> None:
    t = torch.ones(2)
    packed = pack([t, {"x": t + 1}])
    with pytest.raises(FrameError, match="describes 2 slots, 1 tensors are beside it"):
        unpack(packed[1:])
    with pytest.raises(FrameError, match="describes 2 slots, 3 tensors are beside it"):
        unpack((t, *packed))


@pytest.mark.parametrize(
    "wrong", [torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.float64)]
)
def test_slot_of_another_shape_or_dtype(wrong: torch.Tensor) -> None:
    packed = pack([torch.ones(4), {"x": torch.ones(2)}])
    with pytest.raises(
        FrameError,
        match=r"tensors\[1\], outputs\[1\]\['x'\]: the frame says Float \[2\], the tensor is",
    ):
        unpack((packed[0], wrong, packed[2]))


def test_raw_slot_of_another_size() -> None:
    bad = frame(bytes([0, 6, 1, 1]), b"\x03", leaves=1)
    good = torch.arange(3.0)
    assert same(unpack((good.view(torch.uint8), bad)), good)
    with pytest.raises(
        FrameError,
        match=r"tensors\[0\], outputs: the frame says 12 raw bytes, the tensor is Byte \[11\]",
    ):
        unpack((torch.zeros(11, dtype=torch.uint8), bad))


def test_raw_slot_that_is_not_aligned() -> None:
    bytes_ = torch.arange(13, dtype=torch.uint8)[1:]
    got = unpack((bytes_, frame(bytes([0, 6, 1, 1]), b"\x03", leaves=1)))
    assert got.view(torch.uint8).tolist() == list(range(1, 13))


def test_tunnel_without_tunnel() -> None:
    with pytest.raises(
        FrameError,
        match="outputs travels through a tunnel; unpack it with a codec of transport='tunnel'",
    ):
        unpack((frame(bytes([0, 6, 2, 0]), leaves=1),))


def test_payload_leaf() -> None:
    got = unpack((frame(bytes([0, 4, 3, 1]), b"\x01", payload=b"\x07" + bytes(15), leaves=1),))
    assert same(got, torch.tensor([7]))


def node(code: int, *names: str, rest: bytes = b"") -> torch.Tensor:
    return frame(bytes([code]) + b"".join(map(oracle.text, names)) + rest)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            node(23, "tests.corpus:Nothing", rest=b"\0"),
            "byte 48: this process knows no class 'tests.corpus:Nothing'; import",
        ),
        (node(23, "os:path.join", rest=b"\0"), "knows no class 'os:path.join'"),
        (node(23, "no colon", rest=b"\0"), "knows no class 'no colon'"),
        (node(23, "antigravity:Point", rest=b"\0"), "knows no class 'antigravity:Point'"),
        (node(23, "tests.corpus:Plain", rest=b"\0"), "'tests.corpus:Plain' is not a namedtuple"),
        (node(23, "builtins:tuple", rest=b"\0"), "'builtins:tuple' is not a namedtuple"),
        (
            node(23, "tests.corpus:Point", rest=b"\1\2"),
            "has 2 fields in this process, the frame has 1",
        ),
        (node(24, "tests.corpus:Plain", rest=b"\0"), "'tests.corpus:Plain' is not a dataclass"),
        (
            node(24, "tests.corpus:Output", rest=b"\1\x0f\1x\2"),
            "field 'x' of .* not known in this process",
        ),
        (node(25, "tests.corpus:Plain", "A"), "'tests.corpus:Plain' is not an enum"),
        (node(25, "tests.corpus:Colour", "GREEN"), "has no member 'GREEN'"),
        (node(25, "tests.corpus:Colour", "__class__"), "has no member '__class__'"),
        (node(28, "nowhere"), "byte 48: .*nowhere"),
        (node(19, "tests.corpus:nothing", rest=b"\0"), "knows no class"),
        (frame(bytes([20, 2, 2, 2, 2])), "a deque is longer than its maxlen"),
        (frame(bytes([30, 11, 0, 11, 2, 11, 0])), "must not be zero"),
        (frame(bytes([17, 1, 3, 0, 2])), "byte 48: unhashable type: 'list'"),
        (frame(bytes([17, 2, 7, 2, 11, 2, 2])), "a key or an item occurs twice"),
        (frame(bytes([21, 2, 2, 2])), "a key or an item occurs twice"),
        (node(31, "nobody", rest=b"\1\2"), "no type is registered as 'nobody'"),
    ],
)
def test_what_python_cannot_build(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        unpack((bad,))
    assert "antigravity" not in sys.modules


def test_no_init_is_called() -> None:
    with pytest.raises(FrameError):
        unpack((node(24, "tests.corpus:Plain", rest=b"\0"),))
    assert isinstance(Plain.__new__(Plain), Plain)


def test_colliding_keys() -> None:
    modulus = 2**61 - 1  # of CPython's hash of an int
    keys = [1 + i * modulus for i in range(4)]
    few = b"".join(oracle.Encoder().node(k, True) + b"\2" for k in keys)
    assert len(unpack((frame(bytes([17, 4]) + few),))) == 4
    many = b"".join(oracle.Encoder().node(1 + i * modulus, True) + b"\2" for i in range(20000))
    with pytest.raises(FrameError, match="the keys collide"):
        unpack((frame(bytes([17]) + oracle.varint(20000) + many),))
    items = b"".join(oracle.Encoder().node(1 + i * modulus, True) for i in range(20000))
    with pytest.raises(FrameError, match="the keys collide"):
        unpack((frame(bytes([21]) + oracle.varint(20000) + items),))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, or splice."""
    kind = rng.randrange(3)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[: rng.randrange(len(data))]
    a, b = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:a] + data[b:]


def test_changed_bytes_are_never_another_value(seed: int) -> None:
    rng = random.Random(seed)
    for value in structures().values():
        *slots, packed = pack(value)
        data = packed.numpy().tobytes()
        used = int.from_bytes(data[8:16], "little")
        for _ in range(300):
            changed = mutate(data, rng)
            if changed.rstrip(b"\0") == data.rstrip(b"\0") and len(changed) >= used:
                continue  # only padding was cut or added
            with pytest.raises(FrameError):
                unpack((*slots, tensor(changed)))


@settings(max_examples=3000, deadline=None)
@given(
    st.binary(max_size=40), st.binary(max_size=3), st.sampled_from([0, 8, 16]), st.integers(0, 2)
)
def test_any_structure_is_refused_or_built(
    structure: bytes, shapes: bytes, values: int, leaves: int
) -> None:
    # With a right checksum, so that the structure itself is read.
    slots: list[Any] = [torch.ones(1)] * leaves
    with contextlib.suppress(CodecError):
        unpack((*slots, frame(structure, shapes, bytes(values), leaves=leaves)))
