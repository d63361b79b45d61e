"""On a GPU: the host waits where it must and nowhere else, streams, and CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from pipecodec import _C, Codec, unpack
from tests.corpus import same

from .gpu import needs_gpus, on

pytestmark = needs_gpus(1)

BUSY = 2_000_000_000
"""Cycles of the GPU, about a second: longer than the host needs for any test here."""


def values(seed: int) -> dict[str, Any]:
    """A boundary's value: differentiable leaves, small and large other ones, numbers."""
    torch.manual_seed(seed)
    hidden = [torch.randn(8, 64, device="cuda", requires_grad=True) for _ in range(3)]
    hidden.append(torch.randn(5, device="cuda").bfloat16().requires_grad_())
    mask = torch.rand(64, device="cuda") > 0.5
    large = torch.randint(0, 9, (5000,), device="cuda")
    return {"hidden": hidden, "mask": mask, "large": large, "step": 7, "cache": None}


def changed(value: dict[str, Any]) -> None:
    """New contents in the same tensors, as a graph's inputs get them."""
    with torch.no_grad():
        for leaf in (*value["hidden"], value["large"]):
            leaf.mul_(-1)
        value["mask"].logical_not_()


def codecs() -> tuple[Any, Any]:
    return Codec(transport="tunnel", name="sender"), Codec(transport="tunnel", name="receiver")


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Make torch's own waits errors; the codec's wait for an event is not one of them."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def goes_on_while_the_gpu_is_busy(call: Callable[[], Any]) -> Any:
    """Return the result of ``call``, which must not wait for work queued before it."""
    torch.cuda._sleep(BUSY)
    for _ in range(2):  # allocating may wait, and so does loading a kernel; the second round has
        call()  # kernels of its own, such as one that adds to a gradient that is there
    with waits_are_errors():
        torch.cuda._sleep(BUSY)
        given = call()
        assert not torch.cuda.current_stream().query(), "the host waited for the GPU"
    return given


def test_sending_waits_for_nothing() -> None:
    sender, _ = codecs()
    value = values(0) | {"on the host": torch.arange(5)}
    sender.send(value, None)

    def steps() -> None:
        for step in range(3):
            sent = sender.send(value | {"step": step}, None)
        sent[0].backward(torch.zeros_like(sent[0]))

    goes_on_while_the_gpu_is_busy(steps)


def test_packing_waits_for_nothing() -> None:
    codec = Codec()
    value = {"t": torch.ones(3, device="cuda"), "n": 3}
    goes_on_while_the_gpu_is_busy(lambda: [codec.pack(value | {"n": n // 2}) for n in range(8)])


def test_large_frames_wait_for_nothing() -> None:
    codec = Codec()
    value = {"text": "", "t": torch.ones(3, device="cuda")}
    texts = [str(i) * 50_000 for i in range(4)]
    made = goes_on_while_the_gpu_is_busy(
        lambda: [codec.pack(value | {"text": text}) for text in texts]
    )
    for text, packed in zip(texts, made, strict=True):  # each from pinned memory of its own
        assert unpack(packed)["text"] == text


def test_receiving_waits_once_for_each_frame() -> None:
    """No call waits that torch would report, so the wait is for the frame's own copy."""
    sender, receiver = codecs()
    value = values(1)
    received = [tuple(t.detach().clone() for t in sender.send(value, None)) for _ in range(3)]
    receiver.receive(received[0])
    with waits_are_errors():
        got = [receiver.receive(tensors)[0] for tensors in received[1:]]
    assert receiver.stats.reads == 3
    assert all(same(on("cpu", each), on("cpu", value)) for each in got)


def test_comparing_waits_for_nothing() -> None:
    received = torch.zeros(9000, dtype=torch.uint8, device="cuda")
    received[8999] = 1
    expected, mismatch_flag = received.clone(), torch.zeros(1, dtype=torch.int32, device="cuda")
    goes_on_while_the_gpu_is_busy(lambda: _C.compare(received, expected, mismatch_flag))
    assert mismatch_flag.item() == 0
    expected[8999] = 2
    goes_on_while_the_gpu_is_busy(lambda: _C.compare(received, expected, mismatch_flag))
    assert mismatch_flag.item() == 1


def test_side_streams() -> None:
    """All work is queued on the current stream, behind the work that makes the leaves."""
    sender, receiver = codecs()
    value = values(2)
    sender.send(value, None)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(BUSY // 4)
        changed(value)
        sent = sender.send(value, None)
        got, _ = receiver.receive(tuple(t.detach().clone() for t in sent))
        assert same(on("cpu", got), on("cpu", value))


def test_frame_is_reused_on_its_own_stream_only() -> None:
    codec = Codec()
    value = {"t": torch.ones(3, device="cuda"), "n": 3}
    for _ in range(3):
        kept = codec.pack(value)[-1]
    assert codec.pack(value)[-1] is kept
    with torch.cuda.stream(torch.cuda.Stream()):
        there = codec.pack(value)[-1]
        assert there is not kept and codec.pack(value)[-1] is there
        torch.cuda.current_stream().synchronize()


@pytest.mark.parametrize("text", ["short", "long " * 4000])
def test_sending_is_captured_in_a_graph(text: str) -> None:
    sender, receiver = codecs()
    value = values(3) | {"text": text}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            sender.send(value, None)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sender.send(value, None)
    for _ in range(3):
        changed(value)
        scribble()
        graph.replay()
        got, _ = receiver.receive(tuple(t.detach().clone() for t in captured))
        assert same(on("cpu", got), on("cpu", value))


def test_kept_frames_are_not_captured() -> None:
    """A frame made before may be freed when the graph runs; one of the graph does not exist yet."""
    codec = Codec()
    value = {"t": torch.ones(3, device="cuda"), "n": 3}
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        for _ in range(4):
            before = codec.pack(value)[-1]
    with torch.cuda.graph(graph, stream=side):
        captured: Tensor = codec.pack(value)[-1]
    with torch.cuda.stream(side):
        after = codec.pack(value)[-1]
    assert captured is not before and after is not captured
    graph.replay()
    torch.cuda.synchronize()
    assert same(on("cpu", unpack((value["t"], captured))), on("cpu", value))
    assert same(on("cpu", unpack((value["t"], after))), on("cpu", value))


def scribble() -> None:
    """Use up the memory freed since then, on the GPU and pinned."""
    for size in (256, 512, 4096, 65_536, 1 << 20):
        torch.full((size,), 255, dtype=torch.uint8, device="cuda")
        torch.full((size,), 255, dtype=torch.uint8).pin_memory()
