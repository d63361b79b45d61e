"""The format does not change unnoticed: frames of version 2, byte by byte, in both directions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import pipecodec
from pipecodec import _C, Codec, pack, unpack
from tests.corpus import same
from tests.golden import Golden, read_golden
from tests.oracle import DTYPES

GOLDEN = {golden.name: golden for golden in read_golden()}
PAGE = Path(__file__).parent.parent / "docs" / "format.md"

PADDING = 16  # zeros behind a frame where it is read

# Codes of which there is no frame: 1 is never written.
WITHOUT_FRAME = {"SCALAR"}


def packed(golden: Golden) -> tuple[torch.Tensor, ...]:
    """Return the tensors beside the frame, and the frame with some padding."""
    beside = pack(golden.value)[:-1] if golden.kind == "value" else golden.beside
    return (*beside, torch.tensor(list(golden.frame) + PADDING * [0], dtype=torch.uint8))


def codec_for(golden: Golden) -> Codec:
    return Codec(transport="tunnel") if golden.kind == "tunnel" else Codec()


@pytest.mark.parametrize("name", [name for name, g in GOLDEN.items() if g.kind != "unpack"])
def test_pack_gives_exactly_these_bytes(name: str) -> None:
    golden = GOLDEN[name]
    *beside, frame = codec_for(golden).pack(golden.value)
    data = frame.numpy().tobytes()
    assert data.hex(" ") == golden.frame.ljust(len(data), b"\0").hex(" ")
    if golden.kind == "tunnel":
        assert same([tensor.detach() for tensor in beside], golden.beside)


@pytest.mark.parametrize("name", GOLDEN)
def test_these_bytes_give_the_value(name: str) -> None:
    golden = GOLDEN[name]
    codec = codec_for(golden)
    for _ in range(2):  # the codec knows the frame the second time
        assert same(codec.unpack(packed(golden)), golden.value)
    if golden.kind != "tunnel":
        assert same(unpack(packed(golden)), golden.value)


def test_every_type_code_has_a_frame() -> None:
    for name, code in _C.TYPE_CODES.items():
        if name not in WITHOUT_FRAME:
            assert code in GOLDEN[name].structure
    assert {*_C.TYPE_CODES} >= WITHOUT_FRAME


def test_every_route_with_and_without_strides_and_both_flags_have_a_frame() -> None:
    leaves = [
        leaf for g in GOLDEN.values() for *_, leaf in _C.ReceivedFrame(packed(g)).rows() if leaf
    ]
    assert {leaf[2] for leaf in leaves} == {"slot", "raw slot", "tunnel", "frame"}
    strided = {(leaf[2], 0 in leaf[5]) for leaf in leaves if leaf[5] is not None}
    assert strided >= {(route, e) for route in ("raw slot", "tunnel", "frame") for e in (0, 1)}
    assert {golden.frame[5] for golden in GOLDEN.values()} == {0, 1}
    assert {golden.frame[4] for golden in GOLDEN.values()} == {_C.FORMAT_VERSION}


def test_a_flipped_bit_of_any_frame_is_noticed() -> None:
    for golden in GOLDEN.values():
        *beside, frame = packed(golden)
        covered = golden.frame[5] == 1
        end = len(frame) if covered else len(frame) - PADDING - 16
        codec = codec_for(golden)
        codec.unpack((*beside, frame))
        for bit in range(end * 8):
            frame[bit // 8] ^= 1 << bit % 8
            with pytest.raises(pipecodec.FrameError):
                codec.unpack((*beside, frame))
            frame[bit // 8] ^= 1 << bit % 8
        assert same(codec.unpack((*beside, frame)), golden.value)


def test_the_dtypes_of_the_page() -> None:
    section = PAGE.read_text().partition("## 4. dtypes")[2].partition("## 5.")[0]
    found = {}
    for row in re.findall(r"^\| (\d.*) \|$", section, re.M):
        cells = row.split(" | ")
        for codes, names, size in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
            first, last = re.fullmatch(r"(\d+)(?:(?: – |, )(\d+))?", codes).groups()
            if " – " in names:  # uint1 – uint7
                names = ", ".join(names[:-1].partition("1")[0] + str(i) for i in range(1, 8))
            code = range(int(first), int(last or first) + 1)
            found |= dict(zip(code, ((n, int(size)) for n in names.split(", ")), strict=True))
    wanted = [(name, getattr(torch, name).itemsize) for name in DTYPES]
    assert [found[code] for code in sorted(found)] == wanted
    assert sorted(found) == list(range(len(wanted)))


def example() -> tuple[Any, bytes, int]:
    """Return the value, the bytes and the frame's length of the example in docs/format.md."""
    section = PAGE.read_text().partition("## 5. An example")[2].partition("## 6.")[0]
    expression = re.search(r"`pipecodec\.pack\((.*)\)`", section)
    size = re.search(r"a frame of (\d+) bytes", section)
    used = re.search(r"(\d+) are used", section)
    assert expression and size and used
    data = b""
    for line in section.partition("```")[2].partition("```")[0].split("\n"):
        row = re.match(r"([0-9a-f]{2})  +((?:[0-9a-f]{2} )*[0-9a-f]{2}|00 … 00)(?:  |$)", line)
        if row is None:
            assert not line.strip(), line
            continue
        data = data.ljust(int(row[1], 16), b"\0") if b"\0" in data[-1:] else data
        assert len(data) == int(row[1], 16), line
        data += bytes.fromhex(row[2]) if "…" not in row[2] else b"\0"
    value = eval(expression[1], {"torch": torch})
    assert len(data) == int(used[1]) + 1  # the row of the padding
    return value, data[:-1], int(size[1])


def test_the_example_of_the_page() -> None:
    value, data, size = example()
    *slots, frame = pack(value)
    assert frame.numpy().tobytes() == data.ljust(size, b"\0")
    assert len(slots) == 1 and slots[0] is value[0]
    assert same(unpack((*slots, torch.tensor(list(data), dtype=torch.uint8))), value)
