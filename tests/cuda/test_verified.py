"""On a GPU: frames that are not read cost no wait, on any stream, and a graph captures none."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from pipecodec import Codec, FrameError, StructureChangedError

from .gpu import needs_gpus
from .test_waiting import BUSY, goes_on_while_the_gpu_is_busy, waits_are_errors

pytestmark = needs_gpus(1)


def expecting(*values: Any, transport: Any = "slots") -> tuple[list[tuple[Tensor, ...]], Codec]:
    """Return the tensors of each value, and a receiver that expects the first to be repeated."""
    sender, receiver = (Codec(transport=transport, name=name) for name in ("sender", "boundary"))
    packed = [sender.pack(value) for value in values]
    receiver.unpack(packed[0])
    torch.cuda.synchronize()
    return packed, receiver


def two() -> tuple[list[tuple[Tensor, ...]], Codec]:
    hidden = torch.ones(3, device="cuda")
    return expecting([hidden, None], (hidden, None))


def test_receiving_waits_for_nothing() -> None:
    (right, _), receiver = two()

    def micro_batches() -> None:
        for _ in range(20):
            receiver.unpack(right)

    goes_on_while_the_gpu_is_busy(micro_batches)
    receiver.check()
    assert receiver.stats.reads == 1


def test_another_frame_is_found_behind_a_busy_gpu() -> None:
    (right, wrong), receiver = two()
    with waits_are_errors():
        torch.cuda._sleep(BUSY // 4)
        for tensors in (right, wrong, right):
            receiver.unpack(tensors)
    with pytest.raises(StructureChangedError, match="frame 2 .* TUPLE of 2 now and was LIST of 2"):
        receiver.check()


@pytest.mark.parametrize("wrong_on", [None, 0, 1, 2])
def test_streams_are_verified_in_order(wrong_on: int | None) -> None:
    """Each stream is delayed, so that work without an order is done in the wrong one."""
    (right, wrong), receiver = two()
    for number, stream in enumerate([torch.cuda.Stream() for _ in range(3)]):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(BUSY // 4)
            receiver.unpack(wrong if number == wrong_on else right)
    if wrong_on is None:
        receiver.check()
    else:
        with pytest.raises(StructureChangedError, match=f"frame {wrong_on + 1} "):  # 0: two()'s
            receiver.check()
    torch.cuda.synchronize()


def test_other_threads_run_while_one_waits() -> None:
    (right, _), receiver = two()
    receiver.unpack(right)
    for call in (receiver.check, lambda: Codec().unpack(right)):
        torch.cuda._sleep(BUSY)
        done = torch.cuda.Event()
        done.record()
        thread = threading.Thread(target=call)
        thread.start()
        turns = 0
        while not done.query():  # with Python's lock held there, not before the GPU is done
            turns += 1
            thread.join(0.01)
        assert turns > 2
        thread.join()


def test_reading_is_not_captured() -> None:
    """Nor is a frame expected that nobody has checked yet, so that it may not be there."""
    (right, _), receiver = two()
    before, graph = torch.zeros(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        after = before + 1
        for read in (receiver.unpack, Codec().unpack):
            with pytest.raises(RuntimeError, match="no frame can be read or checked"):
                read(right)
    graph.replay()
    assert after.tolist() == [1, 1, 1]
    receiver.unpack(right)
    receiver.check()
    assert receiver.stats.reads == 1


def test_receiving_is_captured_in_a_graph() -> None:
    (right, wrong), receiver = two()
    receiver.check()
    hidden, frame = (tensor.clone() for tensor in right)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = receiver.unpack((hidden, frame))[0] * 2
    for factor in (1, 2, 3):
        hidden.fill_(factor)
        graph.replay()
        receiver.check()
        assert doubled.tolist() == [2 * factor] * 3
    for received in (wrong[-1], right[-1]):
        frame.copy_(received)
        graph.replay()
    with pytest.raises(StructureChangedError, match="boundary: a frame that a replay of a CUDA"):
        receiver.check()
    graph.replay()
    receiver.check()


def test_a_frame_that_ends_too_early_is_read() -> None:
    small = torch.arange(300, device="cuda")
    (right,), receiver = expecting([small], transport="tunnel")
    with pytest.raises(FrameError, match="bytes"):
        receiver.unpack((right[0], right[-1][:512]))
