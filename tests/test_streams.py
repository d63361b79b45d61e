"""Work keeps its order between streams and threads, on a simulated device that is late."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pipecodec import Codec, FrameError, StructureChangedError

from .simdev import Device, load
from .simdev.steady import on_device, on_host

LARGE = "x" * 5000
EARLY = "given back too early"


@pytest.fixture(scope="module")
def device() -> Device:
    return load()


@pytest.fixture(params=["torch's operations", "own kernels"])
def late(device: Device, request: pytest.FixtureRequest) -> Iterator[Device]:
    device.reset()
    own = request.param == "own kernels"
    with device.kernels() if own else contextlib.nullcontext(), device.delayed():
        yield device
    assert device.counts(EARLY) == {EARLY: 0}


def expecting(value: Any) -> tuple[Codec, Codec]:
    """Return a sender and a receiver that expects ``value``."""
    sender, receiver = (Codec(values="static", name="boundary 0→1") for _ in range(2))
    receiver.unpack(sender.pack(value))
    return sender, receiver


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start a call; the list gets its result or error."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


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


def test_staging_memory_lasts_until_it_is_copied(late: Device) -> None:
    codec, hidden = Codec(transport="tunnel"), torch.ones(2).to("sim")
    texts = [str(i) * 3000 for i in range(5)]
    packed = [codec.pack([hidden, text, torch.full((2,), i)]) for i, text in enumerate(texts)]
    for i, (text, tensors) in enumerate(zip(texts, packed, strict=True)):
        got = Codec(transport="tunnel").unpack(tensors)
        assert got[1] == text and on_host(got[2]).tolist() == [i, i]


@pytest.mark.parametrize("checking", [0, 1, 2])
def test_frames_of_several_streams_are_verified_in_order(late: Device, checking: int) -> None:
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    frame = sender.pack(value)[-1]
    for number in (1, 0, 2, 1, 3):
        with late.stream(number):
            receiver.unpack((value[0], frame.clone()))
    with late.stream(checking):
        receiver.check()
    assert receiver.stats.reads == 1


@pytest.mark.parametrize("checking", [0, 1, 2])
def test_another_frame_of_another_stream_is_found(late: Device, checking: int) -> None:
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    right, wrong = sender.pack(value)[-1], sender.pack((value[0],))[-1]
    on_host([right, wrong])  # waits, in every version of torch: accelerator.synchronize() may not
    for number, frame in ((1, right), (2, wrong), (0, right)):
        with late.stream(number):
            receiver.unpack((value[0], frame.clone()))
    with (
        late.stream(checking),
        pytest.raises(StructureChangedError, match="frame 2 .* TUPLE of 1 now and was LIST of 1"),
    ):
        receiver.check()


def test_the_flag_of_a_codec_that_is_gone_is_written_to_no_more(late: Device) -> None:
    value = on_device([torch.ones(2)])
    with late.stream(1):
        sender, receiver = expecting(value)
        wrong = sender.pack((value[0],))[-1]
        on_host([wrong])  # waits, in every version of torch: accelerator.synchronize() may not
    with late.stream(2):
        receiver.unpack((value[0], wrong))
    with late.stream(1):
        del receiver
        others = [torch.zeros(1, dtype=torch.int32, device="sim") for _ in range(8)]
        torch.accelerator.synchronize()
        assert [other.item() for other in on_host(others)] == [0] * 8


def test_who_waits_for_a_frame_lets_other_threads_run(device: Device) -> None:
    """The one that sends it may be among them."""
    value = on_device([torch.ones(2), "text"])
    sender, receiver = expecting(value)
    tensors = sender.pack(value)
    for call in (lambda: Codec().unpack(tensors), receiver.check):
        receiver.unpack(tensors)
        with device.held():
            thread, outcome = in_thread(call)
            device.let_go()
            thread.join()
        assert not isinstance(outcome[0], Exception)


def test_a_frame_that_comes_during_a_check_is_for_the_next_one(device: Device) -> None:
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    receiver.unpack(sender.pack(value))
    wrong = sender.pack((value[0],))
    with device.held():
        before = device.counts("sync")["sync"]
        thread, outcome = in_thread(receiver.check)
        while device.counts("sync")["sync"] == before:
            thread.join(0.01)
        receiver.unpack(wrong)
        device.let_go()
        thread.join()
    assert outcome == [None]
    with pytest.raises(StructureChangedError, match="frame 0 "):
        receiver.check()


def test_the_flag_is_fetched_behind_every_stream(late: Device) -> None:
    """By a codec that is never checked: half of the frames it keeps are let go of then."""
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    right, wrong = sender.pack(value)[-1], sender.pack((value[0],))[-1]
    on_host([right, wrong])

    def receive(i: int) -> None:
        with late.stream(i % 3):
            receiver.unpack((value[0], wrong if i == 511 else right))

    for i in range(1024):
        receive(i)
    with pytest.raises(StructureChangedError, match="frame 512 .* TUPLE of 1 now and was LIST"):
        receive(1024)


def test_others_receive_while_one_waits_for_the_flag(device: Device) -> None:
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    right, wrong = sender.pack(value), sender.pack((value[0],))
    for i in range(1024):
        receiver.unpack(wrong if i == 700 else right)
    with device.held():
        before = device.counts("sync")["sync"]
        thread, outcome = in_thread(lambda: receiver.unpack(right))
        while device.counts("sync")["sync"] == before:
            thread.join(0.01)
        receiver.unpack(right)  # has the flag fetched anew, behind frames that the thread's is not
        device.let_go()
        thread.join()
    assert not isinstance(outcome[0], Exception)
    with pytest.raises(StructureChangedError, match="frame 701 "):
        receiver.check()


def test_what_another_thread_began_to_read_replaces_no_expectation(device: Device) -> None:
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    right, wrong = sender.pack(value), sender.pack((value[0],))
    receiver.reset()
    with device.held():
        before = device.counts("sync")["sync"]
        threads = [in_thread(lambda: receiver.unpack(right))[0] for _ in range(2)]
        while device.counts("sync")["sync"] < before + 2:
            threads[0].join(0.01)
        device.let_go()
        threads[0].join()
        receiver.unpack(wrong)
        threads[1].join()
    with pytest.raises(StructureChangedError):
        receiver.check()


def test_a_failed_device_is_an_error(device: Device) -> None:
    value = on_device([torch.ones(2)])
    sender, receiver = expecting(value)
    receiver.unpack(sender.pack(value))
    with device.failing():
        for call in (receiver.check, lambda: Codec().unpack(sender.pack(value))):
            with pytest.raises(RuntimeError, match="the device has failed"):
                call()


def test_nothing_of_the_host_is_captured(device: Device) -> None:
    """A replay would read it again; and a graph's results exist after a replay only."""
    value = on_device([torch.ones(2), LARGE])
    sender, receiver = expecting(value)
    before = sender.pack(value)
    with device.capturing():
        with pytest.raises(
            RuntimeError, match=r"nothing can be copied from the host.*PIPECODEC_CUDA=1"
        ):
            sender.pack(value)
        for read in (lambda: receiver.unpack(before), lambda: Codec().unpack(before)):
            with pytest.raises(RuntimeError, match="no frame can be read or checked"):
                read()
    assert sender.pack(value)[-1] is not before[-1]
    receiver.unpack(before)
    receiver.check()
    assert receiver.stats.reads == 1


def test_a_frame_that_ends_too_early_is_read(device: Device) -> None:
    """Its small leaves would be copied from behind its end."""
    value = on_device([torch.ones(2), torch.arange(300)])
    sender, receiver = (Codec(transport="tunnel") for _ in range(2))
    receiver.unpack(sender.pack(value))
    *others, frame = sender.pack(value)
    with pytest.raises(FrameError, match="bytes"):
        receiver.unpack((*others, frame[:512]))


def test_what_was_made_in_inference_mode_is_not_used_outside() -> None:
    value = on_device([torch.ones(2)])
    with torch.inference_mode():
        sender, receiver = expecting(value)
        inference = sender.pack(value)
        assert inference[-1].is_inference()
    packed = sender.pack(value)
    assert not packed[-1].is_inference()
    for tensors in (packed, inference):
        receiver.unpack(tensors)
    with torch.inference_mode():
        receiver.unpack(packed)
        assert sender.pack(value)[-1] is packed[-1]
    receiver.check()
    assert receiver.stats.reads == 1
