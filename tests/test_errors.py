"""A FrameError has a reason and a byte, which outlive copies; a bug of our own names its line."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch

from pipecodec import _C, Codec, CodecError, FrameError, pack, unpack
from pipecodec.errors import InternalError, bug
from pipecodec.legacy import decode_metadata
from tests.hostile import wrong

PAGE = Path(__file__).resolve().parents[1] / "docs" / "format.md"


def refused(frame: bytes) -> FrameError:
    with pytest.raises(FrameError) as caught:
        unpack((torch.frombuffer(bytearray(frame), dtype=torch.uint8),))
    return caught.value


@pytest.mark.parametrize("reason", _C.FRAME_ERROR_REASONS)
def test_a_reason_and_its_byte(reason: str) -> None:
    frame, offset = wrong()[reason]
    error = refused(frame)
    assert (error.reason, error.offset) == (reason, offset)
    assert str(error).startswith(f"unpack: byte {offset}: ")
    tensor = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
    with pytest.raises(FrameError) as caught:
        Codec(name="boundary 0→1").unpack((tensor,))
    assert (caught.value.reason, caught.value.offset) == (reason, offset)


def test_the_page_lists_every_reason() -> None:
    section = PAGE.read_text().partition("## 7. Reasons")[2]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.M)) == _C.FRAME_ERROR_REASONS


def test_an_error_that_travels_keeps_them() -> None:
    error = refused(wrong()["checksum"][0])
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is FrameError and other.args == error.args
        assert (other.reason, other.offset) == ("checksum", 40)
    with pytest.raises(FrameError) as caught:
        raise error from KeyError("cause")
    assert (caught.value.reason, caught.value.offset) == ("checksum", 40)


def test_errors_about_no_byte_have_none() -> None:
    tensor, frame = pack(torch.ones(2))
    tunnel = Codec(transport="tunnel")
    sent = tunnel.pack(torch.ones(2, requires_grad=True))
    for action in (
        lambda: unpack(()),
        lambda: unpack((1, frame)),
        lambda: unpack((tensor,)),
        lambda: unpack((tensor, tensor, frame)),
        lambda: unpack((torch.ones(3), frame)),
        lambda: unpack(sent[1:]),
        lambda: Codec(transport="tunnel").unpack((sent[0][:0], sent[-1])),
        lambda: decode_metadata("no path"),
    ):
        with pytest.raises(FrameError) as caught:
            action()
        assert (caught.value.reason, caught.value.offset) == (None, None)


def test_a_bug_names_its_line() -> None:
    error = bug("two is one")
    assert type(error) is InternalError and not isinstance(error, CodecError)
    assert re.fullmatch(
        r"(\.\./)*tests/test_errors\.py:\d+: two is one; .* please report .*", str(error)
    )
