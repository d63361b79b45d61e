"""The cost of a frame that is not read, on a device; graphs may receive such frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipecodec import Codec, FrameError, StructureChangedError

from .simdev import Device, load
from .simdev.steady import on_device

COUNTED = (
    "launch",
    "kernel",
    "alloc",
    "host to device",
    "device to host",
    "event record",
    "event query",
    "sync",
)
NOTHING = dict.fromkeys(COUNTED, 0)
FETCHED = {**NOTHING, "device to host": 1, "event record": 1}
"""Counts while the flag is on its way to the host."""


@pytest.fixture(scope="module")
def device() -> Device:
    return load()


def pair(**options: Any) -> tuple[Codec, Codec]:
    """Return a sender and a receiver of one boundary, whose numbers do not change."""
    settings = {"name": "boundary 0→1", "values": "static", **options}
    return Codec(**settings), Codec(**settings)


def expecting(value: Any, *others: Any, **options: Any) -> tuple[list[Any], Codec]:
    """Return the tensors of each value, and a receiver that has checked the first one."""
    sender, receiver = pair(**options)
    packed = [sender.pack(each) for each in (value, *others)]
    receiver.unpack(packed[0])
    receiver.check()
    return packed, receiver


@pytest.mark.parametrize("frames", [1, 3, 500])
def test_an_unread_frame_costs_one_launch(device: Device, frames: int) -> None:
    """It used to cost a copy to the host, an event and a query as well, each time."""
    with device.kernels():
        (packed,), receiver = expecting(on_device([torch.ones(2), "text", 5]))
        device.reset()
        for _ in range(frames):
            receiver.unpack(packed)
        assert device.counts(*COUNTED) == {**NOTHING, "launch": frames}
        device.reset()
        receiver.check()
        fetched = {**FETCHED, "sync": 1}
        assert {**device.counts(*COUNTED), "alloc": 0} == fetched
        receiver.check()
        assert {**device.counts(*COUNTED), "alloc": 0} == fetched
    assert receiver.stats.reads == 1


def test_without_own_kernels_it_costs_three_operations_and_no_more(device: Device) -> None:
    (packed,), receiver = expecting(on_device([torch.ones(2)]))
    device.reset()
    receiver.unpack(packed)
    assert {**device.counts(*COUNTED), "alloc": 0} == {**NOTHING, "kernel": 3}


@pytest.mark.parametrize("leaves", [0, 1, 112])
def test_with_leaves_that_are_copied_it_costs_one_more(device: Device, leaves: int) -> None:
    with device.kernels():
        hidden = torch.ones(4, requires_grad=True)
        value = on_device([hidden, *(torch.arange(5) for _ in range(leaves))])
        ((tunnel, *others),), receiver = expecting(value, transport="tunnel")
        device.reset()
        receiver.unpack((tunnel.detach(), *others))
        counts = device.counts(*COUNTED)
    assert {**counts, "alloc": 0} == {**NOTHING, "launch": 1 + (leaves > 0)}


def test_a_codec_that_is_never_checked_fetches_the_flag_now_and_then(device: Device) -> None:
    """It does so after each half of 1024 frames, and reads the flag after the next half."""
    (packed,), receiver = expecting(on_device([torch.ones(2)]))

    def receive(frames: int) -> dict[str, int]:
        device.reset()
        for _ in range(frames):
            receiver.unpack(packed)
        return {**device.counts(*COUNTED), "kernel": 0, "alloc": 0}

    assert receive(512) == NOTHING
    assert receive(1) == FETCHED
    assert receive(511) == NOTHING
    for _ in range(3):
        assert receive(512) == {**FETCHED, "sync": 1}
    receiver.check()
    assert receive(512) == NOTHING
    assert receive(1) == FETCHED
    assert receiver.stats.reads == 1


def test_a_device_that_is_late_is_found_out_all_the_same(device: Device) -> None:
    value = on_device([torch.ones(2)])
    (right, wrong), receiver = expecting(value, (value[0],))
    with device.delayed():
        for tensors in (right, wrong, *[right] * 1022):
            receiver.unpack(tensors)
        with pytest.raises(StructureChangedError, match=r"frame 1 .* TUPLE of 1 now and was LIST"):
            receiver.unpack(right)


def received_in_a_graph(
    device: Device, leaf: Tensor, frame: Tensor, receiver: Codec
) -> dict[str, int]:
    """Receive while a graph is captured; return the counts."""
    device.reset()
    with device.capturing():
        assert receiver.unpack((leaf, frame))[0] is leaf
    return device.counts(*COUNTED)


@pytest.mark.parametrize("replays_after", [0, 3])
def test_replays_of_a_graph_are_checked(device: Device, replays_after: int) -> None:
    with device.kernels():
        (leaf,) = value = on_device([torch.ones(2)])
        ((_, right), (_, wrong)), receiver = expecting(value, (leaf,))
        frame = right.clone()
        counts = received_in_a_graph(device, leaf, frame, receiver)
        assert counts == {**NOTHING, "launch": 1}
        for _ in range(3):
            device.replay()
            receiver.check()
        for _ in range(2):  # the graph's own frame is checked, even if the codec has read others
            frame.copy_(wrong)
            device.replay()
            frame.copy_(right)
            for _ in range(replays_after):
                device.replay()
            with pytest.raises(
                StructureChangedError, match="^boundary 0→1: a frame that a replay of a CUDA graph"
            ):
                receiver.check()
            receiver.check()
            device.replay()
            receiver.check()
            assert receiver.unpack((leaf, wrong)) == (leaf,)  # read
            receiver.unpack((leaf, wrong))
    assert receiver.stats.reads == 2


def test_beside_a_graph_another_frame_is_named(device: Device) -> None:
    with device.kernels():
        (leaf,) = value = on_device([torch.ones(2)])
        (right, wrong), receiver = expecting(value, (leaf,))
        received_in_a_graph(device, leaf, right[-1].clone(), receiver)
        for tensors in (right, wrong):
            receiver.unpack(tensors)
        device.replay()
        with pytest.raises(StructureChangedError, match=r"frame 1 .* TUPLE of 1 now and was LIST"):
            receiver.check()
        device.replay()
        receiver.check()


@pytest.mark.parametrize("end", ["reset", "codec"])
def test_a_graph_may_be_replayed_when_its_frame_is_forgotten(device: Device, end: str) -> None:
    """The graph keeps the flag and the frame that it compares with: no other tensor gets them."""
    with device.kernels():
        (leaf,) = value = on_device([torch.ones(2)])
        ((_, right), (_, wrong)), receiver = expecting(value, (leaf,))
        frame = right.clone()
        received_in_a_graph(device, leaf, frame, receiver)
        if end == "reset":
            receiver.reset()
        else:
            del receiver
        others = [torch.zeros(n, dtype=torch.int32, device="sim") for n in (1, 64) * 4]
        device.replay()
        assert end == "codec" or receiver.check() is None
        frame.copy_(wrong)
        device.replay()
        assert not any(other.any().item() for other in others)
        if end == "reset":
            for _ in range(2):
                receiver.unpack((leaf, right))
            with pytest.raises(StructureChangedError, match="a replay of a CUDA graph"):
                receiver.reset()
            assert receiver.unpack((leaf, wrong)) == (leaf,)
            receiver.reset()


def test_only_a_frame_that_was_checked_is_expected_by_a_graph(device: Device) -> None:
    """Otherwise it might not exist yet when the graph is replayed on another stream."""
    value = on_device([torch.ones(2)])
    sender, receiver = pair()
    packed = sender.pack(value)
    receiver.unpack(packed)
    receiver.unpack(packed)
    with device.capturing(), pytest.raises(RuntimeError, match=r"and check\(\) one of the same"):
        receiver.unpack(packed)
    receiver.check()
    with device.capturing():
        receiver.unpack(packed)
    receiver.check()


def test_tensors_that_do_not_fit_are_named_in_a_capture_too(device: Device) -> None:
    value = on_device([torch.ones(2)])
    (packed,), receiver = expecting(value)
    short = packed[-1][:32].clone()
    with device.capturing():
        with pytest.raises(FrameError, match=r"outputs\[0\]: the frame says"):
            receiver.unpack((torch.ones(3).to("sim"), packed[-1]))
        with pytest.raises(RuntimeError, match="no frame can be read"):
            receiver.unpack((*value, short))
    receiver.check()


def test_a_frame_that_travels_ahead_is_never_on_the_device(device: Device) -> None:
    sender, receiver = Codec(read="ahead"), Codec(read="ahead")
    for number in range(3):  # other structures and numbers each time
        value = {"x": torch.ones(9).to("sim"), "n": number, "rest": [None] * number}
        device.reset()
        *leaves, frame = sender.pack(value)
        assert frame.is_cpu and [leaf.device.type for leaf in leaves] == ["sim"]
        unpacked = receiver.unpack([*leaves, frame])
        assert device.counts(*COUNTED) == NOTHING
        assert unpacked["x"] is value["x"] and unpacked["n"] == number
        assert unpacked["rest"] == value["rest"]
