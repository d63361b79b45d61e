"""Rings in shared memory: whole messages in order, and an error in time where none will come."""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipecodec import _C
from pipecodec.roads.ends import shut_all
from pipecodec.roads.shared_memory import RingReceiver, RingSender
from tests import shared_memory

PAGE = 4096
SOON = 2.0
"""Seconds in which an error has to come."""


def ring(capacity: int = PAGE, most: int = 1 << 20) -> tuple[Any, Any]:
    writer = _C.RingWriter(capacity, most)
    writer.connect(os.getpid())
    return writer, _C.RingReader(os.getpid(), writer.file, writer.secret)


def later(seconds: float, act: Callable[[], Any]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


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
    assert writer.flush(SOON) and not reader.ready


def test_a_sender_does_not_wait_for_a_slow_receiver() -> None:
    writer, reader = ring(most=1 << 22)
    began = time.monotonic()
    sent = [bytes([i]) * 10_000 for i in range(100)]  # a ring holds none of them
    for message in sent:
        writer.post(SOON, message)
    assert time.monotonic() - began < SOON
    assert not writer.flush(0.0)
    assert [bytes(reader.take(SOON)) for _ in sent] == sent
    assert writer.flush(SOON)


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


def test_the_time_passes_and_the_user_may_interrupt() -> None:
    writer, reader = ring()
    for timeout in (0.0, -1.0, float("nan"), 0.2):
        with pytest.raises(TimeoutError, match="no message has come"):
            reader.take(timeout)
    # A shell starts what it runs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    later(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        reader.take(60.0)
    signal.signal(signal.SIGINT, before)
    writer.post(float("inf"), b"still there")
    assert reader.take(float("inf")) == b"still there"


SENDER = """
import os, sys, time
from pipecodec import _C
writer = _C.RingWriter(4096, 1 << 20)
print(os.getpid(), writer.file, writer.secret, flush=True)
writer.connect(int(sys.stdin.readline()))
writer.post(1.0, b"first")
writer.post(1.0, bytes(100_000))  # does not fit, so that it is on its way for ever
print("posted", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_sender_is_noticed_and_leaves_nothing_behind() -> None:
    before, opened = shared_memory.names(), len(os.listdir("/proc/self/fd"))
    with subprocess.Popen(
        [sys.executable, "-c", SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        reader = _C.RingReader(*map(int, process.stdout.readline().split()))
        process.stdin.write(f"{os.getpid()}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "posted\n"
        assert shared_memory.names() <= before
        process.kill()
        process.wait()
        assert reader.take(SOON) == b"first"
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="the sender's process has ended"):
            reader.take(60.0)
        assert time.monotonic() - began < SOON
        with pytest.raises(ConnectionError):
            reader.take(60.0)
    del reader
    assert shared_memory.names() <= before and len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.slow
def test_a_killed_receiver_is_noticed() -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    writer = _C.RingWriter(PAGE, 20_000)
    writer.connect(child)
    writer.post(SOON, bytes(PAGE - 16))
    writer.post(SOON, bytes(15_000))
    later(0.2, lambda: os.kill(child, signal.SIGKILL))
    with pytest.raises(ConnectionError, match="the receiver's process has ended"):
        writer.post(60.0, bytes(15_000))
    os.waitpid(child, 0)


@pytest.mark.slow
def test_a_forked_process_ends_no_road() -> None:
    writer, reader = ring()
    child = os.fork()
    if child == 0:
        del writer, reader  # as the end of a process that Python ends would
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    writer.post(SOON, b"still open")
    assert reader.take(SOON) == b"still open"


def test_memory_that_another_wrote_into_is_refused() -> None:
    """The other side may write anything; numbers of the prefix stand behind the first page."""
    for offset, wrong, text in (
        (PAGE + 8, 7, "message 7 came in the place of 0"),
        (PAGE, 2**40, "message 0 came in the place of 0"),
        (64, 2**60, "the ring's memory was written to"),
    ):
        writer, reader = ring()
        writer.post(SOON, b"a message")
        with mmap.mmap(writer.file, 2 * PAGE) as memory:
            memory[offset : offset + 8] = wrong.to_bytes(8, "little")
        with pytest.raises(ConnectionError, match=text):
            reader.take(SOON)


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
    with pytest.raises(TimeoutError, match="^boundary 0→1, rank 3: no message has come$"):
        receiver.take()
    later(0.1, shut_all)
    with pytest.raises(ConnectionError, match="^boundary 0→1, rank 3: this side was shut$"):
        RingReceiver("boundary 0→1", 3, 60.0, sender.offer).take()
    with pytest.raises(ConnectionError, match="^boundary 0→1, rank 7: this side was shut$"):
        sender.post(b"")
