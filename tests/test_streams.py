"""What keeps its order between streams, on a simulated device that is late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipecodec import Codec

from .simdev import Device, load
from .test_round_trips import on_device

LARGE = "x" * 5000
EARLY = "given back too early"


@pytest.fixture(scope="module")
def device() -> Device:
    return load()


@pytest.fixture
def late(device: Device) -> Iterator[Device]:
    device.reset()
    with device.delayed():
        yield device
    assert device.counts(EARLY) == {EARLY: 0}


def test_without_an_event_another_stream_is_too_early(device: Device) -> None:
    """Else the tests below would prove nothing."""
    device.reset()
    read, source = torch.zeros(3, device="sim"), torch.ones(3).pin_memory()
    with device.delayed():
        with device.stream(1):
            read.fill_(1)
        with device.stream(2):
            assert read.cpu().tolist() == [0, 0, 0]
        there = source.to("sim", non_blocking=True)
        del source
    assert (read.cpu().tolist(), there.cpu().tolist()) == ([1, 1, 1], [1, 1, 1])
    assert device.counts(EARLY) == {EARLY: 1}


def test_memory_of_another_stream_is_reused_too_early(device: Device) -> None:
    with device.delayed():
        with device.stream(1):
            given = torch.ones(3, device="sim")
        with device.stream(2):
            copied = given.clone()
        with device.stream(1):
            del given
            torch.full((3,), 2.0, device="sim").cpu()
    assert copied.cpu().tolist() == [2, 2, 2]


@pytest.mark.parametrize("text", ["", LARGE])
def test_a_kept_frame_is_for_its_own_stream(late: Device, text: str) -> None:
    codec, value = Codec(), on_device([torch.ones(2), text])
    frames = []
    for number in (1, 1, 1, 2, 2, 1):
        with late.stream(number):
            frames.append(codec.pack(value)[-1])
            if number == 2:  # which waits for that stream alone
                assert Codec().unpack((value[0], frames[-1]))[1] == text
    assert frames[0] is frames[1] is frames[2] and frames[3] is frames[4]
    assert frames[3] is not frames[2] and frames[5] is not frames[4]
