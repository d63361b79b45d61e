"""Unread frames: the frame that each is assumed to repeat, and the error where one differs."""

from __future__ import annotations

import re
import weakref
from typing import Any

import pytest
import torch

from pipecodec import Codec, FrameError, StructureChangedError

H, MASK = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3, dtype=torch.bool)
KEPT = 1024
"""Frames whose outcome is not known yet, at most."""


def pair(transport: str = "slots", **options: Any) -> tuple[Codec, Codec]:
    """Return a sender and a receiver of one boundary."""
    settings = {"transport": transport, "name": "boundary 0→1", "read": "verified", **options}
    return Codec(**settings), Codec(**settings)


def test_a_frame_like_the_last_one_is_not_read() -> None:
    sender, receiver = pair()
    for factor in (1.0, 2.0, 3.0):
        got = receiver.unpack(sender.pack({"h": H * factor, "none": None, "text": "same"}))
        assert got.keys() == {"h", "none", "text"} and torch.equal(got["h"], H * factor)
    assert receiver.stats.reads == 1
    receiver.check()
    receiver.check()


@pytest.mark.parametrize(
    ("values", "payload", "reads"),
    [("dynamic", False, 4), ("static", False, 1), ("static", True, 4)],
)
def test_what_may_differ_is_read(values: str, payload: bool, reads: int) -> None:
    """Numbers unless they are static, and small leaves that the checksum covers."""
    sender, receiver = pair("tunnel", values=values)
    for _ in range(4):
        receiver.unpack(sender.pack((H.clone().requires_grad_(), 5, MASK if payload else None)))
    assert receiver.stats.reads == reads
    receiver.check()


@pytest.mark.parametrize(
    ("value", "difference"),
    [
        ((H, None, "text"), r"outputs\[1\] is None now and was INT 5"),
        ((H, 6, "text"), r"outputs\[1\] is INT 6 now and was INT 5"),
        ((H.t(), 5, "text"), r"outputs\[0\] is TORCH_TENSOR float32 \[3, 2\] now .* \[2, 3\]"),
        ((H, 5, "TEXT"), r"outputs\[2\] is STR 'TEXT' now and was STR 'text'"),
        ((H, [5], "text"), r"outputs\[1\] is LIST of 1 now and was INT 5"),
    ],
)
def test_another_frame_is_found_by_the_check_and_named(value: Any, difference: str) -> None:
    sender, receiver = pair(values="static")
    for _ in range(3):
        receiver.unpack(sender.pack((H, 5, "text")))
    receiver.check()
    receiver.unpack(sender.pack((H, 5, "text")))
    with pytest.raises(StructureChangedError) as caught:
        receiver.unpack(sender.pack(value))  # where the tensors do not fit the frame expected
        receiver.check()
    message = str(caught.value)
    assert message.startswith(
        "boundary 0→1: frame 1 (0-based, since the last check) differs from the frame it was "
        "assumed to repeat: "
    )
    assert re.search(difference, message) and 'read="always"' in message
    got = receiver.unpack(sender.pack(value))  # from then on it is read again
    assert str(got) == str(value)
    receiver.check()


def test_a_leaf_that_moved_is_named() -> None:
    """Values, shapes and sizes are equal."""
    sender, receiver = pair()
    tunneling, _ = pair("tunnel")
    large = torch.ones(2048)
    receiver.unpack(sender.pack([large]))
    receiver.unpack((large, tunneling.pack([large])[-1]))
    moved = r"outputs\[0\] is in a raw slot now and was in a slot; values computed"
    with pytest.raises(StructureChangedError, match=moved):
        receiver.check()


def test_a_difference_may_be_too_long_to_show() -> None:
    sender, receiver = pair()
    for end in "ab":
        receiver.unpack(sender.pack([H, "long" * 4096 + end]))
    with pytest.raises(StructureChangedError, match="in a part too long to show; values computed"):
        receiver.check()


def test_a_codec_that_is_never_checked_finds_another_frame() -> None:
    """The flag is fetched behind half of the frames that are kept, and looked at when all are."""
    sender, receiver = pair()
    right, another = sender.pack([H]), sender.pack([H, H])
    for tensors in (right, right, (another[0], another[-1]), *[right] * (KEPT - 2)):
        receiver.unpack(tensors)
    with pytest.raises(StructureChangedError, match="frame 2 .* LIST of 2 now and was LIST of 1"):
        receiver.unpack(right)


def test_frames_are_numbered_since_the_last_check_however_many_were_found_right() -> None:
    sender, receiver = pair()
    right, another = sender.pack([H]), sender.pack([H, H])
    for _ in range(7):
        receiver.unpack(right)
    receiver.check()
    for _ in range(3 * KEPT):
        receiver.unpack(right)
    receiver.unpack((another[0], another[-1]))
    with pytest.raises(StructureChangedError, match=f"frame {3 * KEPT} "):
        receiver.check()


@pytest.mark.parametrize(("text", "most"), [(0, KEPT), (1 << 20, 15), (1 << 24, 2)])
def test_frames_are_kept_until_they_are_found_right(text: int, most: int) -> None:
    """Up to a number, and up to 16 MiB; two if they are larger."""
    sender, receiver = pair()
    value = [H, "x" * text]
    alive = weakref.WeakSet[torch.Tensor]()
    largest = 0
    for _ in range(3 * most):
        h, frame = sender.pack(value)
        clone = frame.clone()
        alive.add(clone)
        receiver.unpack((h, clone))
        del clone
        largest = max(largest, len(alive))
    assert most - 3 <= largest <= most
    receiver.check()
    assert len(alive) == 0


@pytest.mark.parametrize(
    ("put_right", "error", "message"),
    [
        (False, StructureChangedError, "it is damaged: "),
        (True, FrameError, "now equals the expected one: something wrote into it after it arrived"),
    ],
)
def test_a_changed_frame_is_named_so(put_right: bool, error: Any, message: str) -> None:
    sender, receiver = pair()
    receiver.unpack(sender.pack([H]))
    h, frame = sender.pack([H])
    wrong = frame.clone()
    wrong[20] ^= 1
    receiver.unpack((h, wrong))
    if put_right:
        wrong.copy_(frame)
    with pytest.raises(error, match=message):
        receiver.check()


def test_a_shorter_frame_is_read() -> None:
    sender, receiver = pair()
    receiver.unpack(sender.pack(["a" * 600]))
    small = Codec().pack(["b"])
    assert receiver.unpack(small) == ["b"]
    assert receiver.stats.reads == 2


def test_reset_forgets_what_is_expected() -> None:
    sender, receiver = pair()
    receiver.unpack(sender.pack([H]))
    receiver.reset()
    sender.reset()
    assert receiver.unpack(sender.pack({"h": H}))["h"] is H
    receiver.check()
    assert receiver.stats.reads == 2


@pytest.mark.parametrize("transport", ["slots", "tunnel"])
def test_reset_tells_of_a_frame_that_was_another(transport: str) -> None:
    sender, receiver = pair(transport)
    for wrong in (0, 0, 0, 1):
        *tensors, frame = sender.pack([H.clone().requires_grad_()])
        frame = frame.clone()
        frame[20] ^= wrong
        receiver.unpack((*tensors, frame))
    with pytest.raises(StructureChangedError, match="frame 3 .* it is damaged: "):
        receiver.reset()
    receiver.check()
    receiver.reset()


class Using:
    """An object that uses a codec when it is freed."""

    def __init__(self, codec: Codec, packed: tuple[torch.Tensor, ...], forget: bool) -> None:
        self.use = lambda: codec.reset() if forget else codec.unpack(packed)

    def __del__(self) -> None:
        self.use()


@pytest.mark.parametrize("forget", [False, True])
def test_the_end_of_a_frame_may_run_code_that_unpacks(forget: bool) -> None:
    sender, receiver = pair()
    packed = sender.pack([H])
    for _ in range(100):
        receiver.unpack(packed)
        for _ in range(3):
            frame = packed[-1].clone()
            frame.using = Using(receiver, packed, forget)  # type: ignore[attr-defined]
            assert receiver.unpack((H, frame))[0] is H
            del frame
        receiver.check()


def test_the_end_of_frames_that_nobody_checked_may_run_code_that_unpacks() -> None:
    sender, receiver = pair()
    packed = sender.pack([H])
    for _ in range(2 * KEPT):
        frame = packed[-1].clone()
        frame.using = Using(receiver, packed, forget=False)  # type: ignore[attr-defined]
        assert receiver.unpack((H, frame))[0] is H
        del frame
    receiver.check()


def test_on_the_cpu_every_frame_is_read_unless_told_otherwise() -> None:
    for read in ("auto", "always"):
        sender, receiver = pair(read=read)
        for value in ([H], {"h": H}, [H]):
            receiver.unpack(sender.pack(value))
        receiver.check()
        assert receiver.stats.reads == 3


def test_frames_of_dynamic_sizes_are_read() -> None:
    with pytest.raises(ValueError, match="dynamic_shape=True every frame is read"):
        pair("tunnel", dynamic_shape=True)
