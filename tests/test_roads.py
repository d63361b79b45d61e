"""Rings in shared memory: whole messages in order, and an error in time where none will come."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from pipecodec import _C
from pipecodec.roads.ends import shut_all
from pipecodec.roads.shared_memory import RingReceiver, RingSender

from .rings import PAGE, SOON, later, ring


def test_messages_of_all_sizes_come_whole_and_in_order() -> None:
    writer, reader = ring()
    draw = random.Random(0)
    edges = [0, 1, 15, 16, 17, PAGE - 16, PAGE - 15, PAGE, 3 * PAGE + 5]
    sent = [draw.randbytes(size) for size in [*edges, *(draw.randrange(700) for _ in range(900))]]

    def post() -> None:
        for message in sent:
            cut = draw.randrange(len(message) + 1)
            writer.post(SOON, message[:cut], memoryview(message)[cut:], b"")

    thread = threading.Thread(target=post)
    thread.start()
    assert [bytes(reader.take(SOON)) for _ in sent] == sent
    thread.join()
    writer.flush(SOON)
    assert not reader.ready


def test_a_sender_waits_until_its_messages_are_taken() -> None:
    writer, reader = ring()
    for message in (b"in the ring", b"behind it" * PAGE):
        writer.post(SOON, message)
        mark = writer.posted
        with pytest.raises(TimeoutError, match="the receiver takes no messages"):
            writer.wait_taken(mark, 0.0)
        later(0.1, lambda: reader.take(SOON))
        writer.wait_taken(mark, SOON)
    writer.post(SOON, b"never")
    later(0.1, reader.shut)
    with pytest.raises(ConnectionError, match="the receiver has shut its side"):
        writer.wait_taken(writer.posted, SOON)
    writer.wait_taken(mark, SOON)  # those before were taken


def test_a_sender_does_not_wait_for_a_slow_receiver() -> None:
    writer, reader = ring(most=1 << 22)
    began = time.monotonic()
    sent = [bytes([i]) * 10_000 for i in range(100)]  # a ring holds none of them
    for message in sent:
        writer.post(SOON, message)
    assert time.monotonic() - began < SOON
    with pytest.raises(TimeoutError, match="the receiver takes no messages"):
        writer.flush(0.0)
    assert [bytes(reader.take(SOON)) for _ in sent] == sent
    writer.flush(SOON)


def test_a_receiver_that_takes_nothing_is_an_error_and_takes_no_more_memory() -> None:
    writer, reader = ring(most=50_000)
    writer.post(SOON, bytes(30_000))
    writer.post(SOON, bytes(15_000))
    with pytest.raises(TimeoutError, match="the receiver takes no messages"):
        writer.post(0.2, bytes(20_000))
    assert [len(reader.take(SOON)) for _ in range(2)] == [30_000, 15_000]
    writer.post(SOON, b"goes on")
    assert reader.take(SOON) == b"goes on"


def test_whoever_waits_wakes_when_a_side_is_shut() -> None:
    writer, reader = ring()
    later(0.1, reader.shut)
    with pytest.raises(ConnectionError, match="this side was shut"):
        reader.take(60.0)
    with pytest.raises(ConnectionError, match="the receiver has shut its side"):
        writer.post(SOON, b"")
    writer, reader = ring()
    writer.post(SOON, b"before")
    later(0.2, writer.shut)
    assert reader.take(SOON) == b"before"
    with pytest.raises(ConnectionError, match="the sender has shut its side"):
        reader.take(60.0)
    with pytest.raises(ConnectionError, match="this side was shut"):
        writer.post(SOON, b"")


def test_the_time_passes() -> None:
    _, reader = ring()
    for timeout in (0.0, -1.0, float("nan"), 0.2):
        with pytest.raises(TimeoutError, match="no message has come"):
            reader.take(timeout)


def test_a_reader_opens_only_the_ring_that_was_offered() -> None:
    writer, _ = ring()
    with pytest.raises(FileNotFoundError, match="another process's memory"):
        _C.RingReader(os.getpid(), writer.file, writer.secret + 1)
    with pytest.raises(FileNotFoundError, match="is no ring"):
        _C.RingReader(os.getpid(), os.open("/dev/null", os.O_RDWR), 1)
    with pytest.raises(FileNotFoundError):
        _C.RingReader(2**22 - 1, 3, 1)
    with pytest.raises(TypeError, match="bytes-like"):
        writer.post(SOON, "a text")


def test_errors_name_the_road_and_its_other_end() -> None:
    sender = RingSender("boundary 0→1", 7, SOON)
    receiver = RingReceiver("boundary 0→1", 3, 0.1, sender.offer)
    with pytest.raises(TimeoutError, match="^boundary 0→1, rank 3: no message has come in 0.1 s$"):
        receiver.take()
    later(0.1, shut_all)
    with pytest.raises(ConnectionError, match="^boundary 0→1, rank 3: this side was shut$"):
        RingReceiver("boundary 0→1", 3, 60.0, sender.offer).take()
    with pytest.raises(ConnectionError, match="^boundary 0→1, rank 7: this side was shut$"):
        sender.post(b"")
