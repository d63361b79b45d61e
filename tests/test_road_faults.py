"""What a ring does where a process ends, is forked or interrupted, or writes what it should not."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipecodec import _C
from pipecodec.roads.shared_memory import RingSender

from . import shared_memory
from .rings import PAGE, SOON, later, ring


@contextmanager
def interrupted() -> Iterator[None]:
    """Expect that Ctrl-C, a moment later, ends what is done here, and soon."""
    # A shell starts what it runs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    later(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < SOON


def test_the_user_may_interrupt_whoever_waits() -> None:
    writer, reader = ring(most=20_000)
    with interrupted():
        reader.take(60.0)
    writer.post(float("inf"), b"still there")
    assert reader.take(float("inf")) == b"still there"
    writer.post(SOON, bytes(15_000))
    with interrupted():
        writer.post(60.0, bytes(15_000))
    with interrupted():
        writer.flush(60.0)
    assert len(reader.take(SOON)) == 15_000
    writer.post(SOON, b"goes on")
    assert reader.take(SOON) == b"goes on"


def child_of(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


SENDER = """
import os, sys, time
from pipecodec import _C
writer = _C.RingWriter(4096, 1 << 20)
print(os.getpid(), writer.file, writer.secret, flush=True)
writer.connect(*map(int, sys.stdin.readline().split()))
writer.post(1.0, b"first")
writer.post(1.0, bytes(100_000))  # does not fit, so that it is on its way for ever
print("posted", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_sender_is_noticed_and_leaves_nothing_behind() -> None:
    before, opened = shared_memory.names(), len(os.listdir("/proc/self/fd"))
    with child_of(SENDER) as process:
        assert process.stdin is not None and process.stdout is not None
        reader = _C.RingReader(*map(int, process.stdout.readline().split()))
        process.stdin.write("{} {}\n".format(*_C.this_process()))
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


READER = """
import sys, time
from pipecodec import _C
reader = _C.RingReader(*map(int, sys.argv[1:]))
print(*_C.this_process(), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_receiver_is_noticed() -> None:
    """By one that waits for room, and by one that waits until all messages have left."""
    for wait in (lambda sender: sender.post(bytes(15_000)), RingSender.finish):
        sender = RingSender("road", 3, 60.0)
        sender._ring = writer = _C.RingWriter(PAGE, 20_000)
        with child_of(READER, os.getpid(), writer.file, writer.secret) as process:
            assert process.stdout is not None
            number, began = map(int, process.stdout.readline().split())
            sender.connect((number, began))
            sender.post(bytes(15_000))
            later(0.2, process.kill)
            began_to_wait = time.monotonic()
            with pytest.raises(ConnectionError, match="^road, rank 3: the receiver's process has"):
                wait(sender)
            assert time.monotonic() - began_to_wait < SOON
            for again in (sender.finish, lambda sender=sender: sender.post(b"")):
                with pytest.raises(ConnectionError, match="the receiver's process has ended"):
                    again()


def test_messages_that_a_receiver_left_behind_are_an_error() -> None:
    writer, reader = ring()
    writer.post(SOON, b"in the memory")
    reader.shut()
    writer.flush(SOON)
    writer, reader = ring()
    writer.post(SOON, bytes(15_000))
    reader.shut()
    with pytest.raises(ConnectionError, match="the receiver has shut its side"):
        writer.flush(SOON)


def test_a_process_that_has_the_number_of_the_receiver_is_another_one() -> None:
    writer = _C.RingWriter(PAGE, 20_000)
    number, began = _C.this_process()
    writer.connect(number, began - 1)
    with pytest.raises(ConnectionError, match="the receiver's process has ended"):
        writer.post(SOON, b"")


NO_FILES = """
import os, resource
from pipecodec import _C
writer = _C.RingWriter(4096, 1 << 20)
most = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (most + {free}, most + 64))
writer.connect(*_C.this_process())
writer.post(1.0, b"goes")
resource.setrlimit(resource.RLIMIT_NOFILE, (most + 64, most + 64))
writer.post(1.0, b"goes on")
"""


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_process_without_free_files_takes_nobody_for_ended(free: int) -> None:
    with child_of(NO_FILES.format(free=free)) as process:
        assert process.wait(20) == 0


ENDS = """
import threading, time
from pipecodec import _C
writer = _C.RingWriter(4096, 1 << 20)
{begin}
thread = threading.Thread(target=lambda: {wait}, daemon=True)
thread.start()
time.sleep(0.05)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "wait"),
    [
        (
            "import os; reader = _C.RingReader(os.getpid(), writer.file, writer.secret)",
            "reader.take(60.0)",
        ),
        ("writer.post(1.0, bytes(1 << 20))", "writer.post(60.0, bytes(1 << 20))"),
        ("writer.post(1.0, bytes(1 << 20))", "writer.flush(60.0)"),
    ],
    ids=["take", "post", "flush"],
)
def test_a_process_ends_while_a_thread_waits(begin: str, wait: str) -> None:
    with child_of(ENDS.format(begin=begin, wait=wait)) as process:
        assert process.wait(20) == 0


def in_a_child(act: Callable[[], Any]) -> int:
    """Return the exit code of a forked process that does this, or is killed if it does not end."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_a_forked_process_has_no_part_in_a_road() -> None:
    ends = [*ring()]
    writer, reader = ends
    writer.post(SOON, b"first")
    later(0.0, lambda: None)

    def act() -> None:
        for call in (
            lambda: writer.post(SOON, b"of the child"),
            lambda: writer.flush(SOON),
            lambda: writer.connect(*_C.this_process()),
            lambda: reader.take(SOON),
            lambda: reader.ready,
        ):
            with pytest.raises(RuntimeError, match="belongs to the process that forked this one"):
                call()

    assert in_a_child(act) == 0
    writer.post(SOON, b"second")
    assert [reader.take(SOON), reader.take(SOON)] == [b"first", b"second"]


@pytest.mark.slow
def test_a_forked_process_ends_no_road_and_ends_itself() -> None:
    """Even where the other threads of the process that it was forked from hold it, or wait."""
    ends = [*ring()]
    ends[0].post(SOON, bytes(15_000))  # has a thread that carries
    later(0.0, lambda writer=ends[0]: writer.flush(SOON))
    time.sleep(0.05)
    child = in_a_child(ends.clear)
    assert child == 0
    assert len(ends[1].take(SOON)) == 15_000
    ends[0].post(SOON, b"still open")
    assert ends[1].take(SOON) == b"still open"


def write(writer: Any, offset: int, value: int) -> None:
    with mmap.mmap(writer.file, 2 * PAGE) as memory:
        memory[offset : offset + 8] = value.to_bytes(8, "little")


WRITTEN, TAKEN = 64, 128
"""Where the two counts stand."""


def test_memory_that_the_sender_wrote_wrongly_is_refused() -> None:
    """Numbers of the prefix stand behind the first page."""
    for offset, wrong, text in (
        (PAGE + 8, 7, "message 7 came in the place of 0"),
        (PAGE, 2**40, "message 0 came in the place of 0"),
        (WRITTEN, 2**60, "the ring's memory was written to"),
    ):
        writer, reader = ring()
        writer.post(SOON, b"a message")
        write(writer, offset, wrong)
        with pytest.raises(ConnectionError, match=text):
            reader.take(SOON)


@pytest.mark.parametrize("taken", [1, 8 * PAGE, 2**63, 2**64 - 8 * PAGE])
def test_memory_that_the_receiver_wrote_wrongly_is_refused(taken: int) -> None:
    """More taken than was written would let a message of any size into the memory."""
    for size in (10, 2 * PAGE, 20 * PAGE):
        writer, _ = ring()
        write(writer, TAKEN, taken)
        with pytest.raises(ConnectionError, match="the ring's memory was written to"):
            writer.post(SOON, bytes(size))
        writer, _ = ring()
        writer.post(SOON, bytes(20 * PAGE))  # the thread that carries waits for room
        write(writer, TAKEN, (taken + 2**62) % 2**64)
        with pytest.raises(ConnectionError, match="the ring's memory was written to"):
            writer.flush(SOON)


def test_the_size_of_a_rings_memory_does_not_change() -> None:
    """A process that touched memory which another one cut off would end."""
    writer, _ = ring()
    for size in (0, PAGE, 64 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(writer.file, size)
    file = os.memfd_create("unsealed")
    os.ftruncate(file, 2 * PAGE)
    with pytest.raises(FileNotFoundError, match="its size may change"):
        _C.RingReader(os.getpid(), file, 1)
    os.close(file)


def test_two_threads_that_take_at_once_are_an_error() -> None:
    writer, reader = ring()
    errors: list[str] = []

    def take() -> None:
        try:
            reader.take(SOON)
        except RuntimeError as error:
            errors.append(str(error))
        writer.post(SOON, b"for the first")

    later(0.05, take)
    assert reader.take(SOON) == b"for the first"
    assert errors == ["another thread takes a message"]
