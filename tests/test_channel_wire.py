"""Messages of a channel, without processes: what stands in them, and what both sides remember."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipecodec import UnsupportedTypeError
from pipecodec.channel import wire
from pipecodec.channel.sending import MOST, Handle, OnTheirWay, Orders
from tests.corpus import same, structures

HEAD = 32
CPU = torch.device("cpu")


class Wire:
    """Both sides of one direction; ``sizes`` are the bytes of the messages so far."""

    def __init__(self) -> None:
        self.encoder, self.decoder = wire.Encoder("channel"), wire.Decoder("channel")
        self.sizes: list[int] = []

    def cross(self, value: Any) -> Any:
        sent = self.encoder.encode(value)
        inside = sum(map(len, sent.tensors)) <= wire.MOST_INSIDE
        parts = self.encoder.message(sent, wire.INSIDE if inside else wire.HOST)
        self.encoder.sent(sent)
        message = bytearray().join(parts)
        self.sizes.append(len(message))
        incoming = self.decoder.open(message)
        assert incoming is not None
        beside = [tensor.clone() for tensor in sent.tensors]
        return self.decoder.build(incoming, incoming.inside if inside else beside, CPU)


def test_a_frame_that_repeats_is_a_head_alone() -> None:
    both, value = Wire(), {"a": 1, "b": [torch.ones(3), "text"]}
    for _ in range(3):
        assert same(both.cross(value), value)
    assert both.sizes[0] > HEAD and both.sizes[1:] == [HEAD, HEAD]
    value["a"] = 2
    assert same(both.cross(value), value) and both.sizes[3] == both.sizes[0]


def test_a_structure_that_repeats_is_left_out() -> None:
    both = Wire()
    for step in range(4):
        value = {f"a long name {i}": (i + step, torch.full((2,), step)) for i in range(60)}
        assert same(both.cross(value), value)
    assert both.sizes[1] == both.sizes[2] == both.sizes[3] < both.sizes[0] - 1000
    assert same(both.cross([1]), [1])
    assert same(both.cross(value), value) and both.sizes[5] == both.sizes[0]


def test_received_tensors_are_no_part_of_remembered_memory() -> None:
    both, value = Wire(), [torch.ones(3), torch.ones(3000), torch.ones(2000).reshape(40, 50).t()]
    for _ in range(3):
        received = both.cross(value)
        assert same(received, value)
        for tensor in received:
            tensor.fill_(7)
    assert bool((value[1] == 1).all())


def test_many_large_leaves_are_not_kept() -> None:
    """The codec puts those behind the 64th into the frame, which then is one more tensor."""
    both, value = Wire(), [torch.full((3000,), i) for i in range(90)]
    for _ in range(2):
        assert same(both.cross(value), value)
        assert both.sizes[-1] == HEAD + 8 * 65
    assert len(both.encoder._last) == len(both.decoder._last) == 0
    assert same(both.cross(1), 1)


def test_a_refused_value_changes_nothing() -> None:
    both = Wire()
    both.cross({"a": 1})
    with pytest.raises(UnsupportedTypeError, match=r"outputs\['a'\]"):
        both.encoder.encode({"a": object()})
    assert both.cross({"a": 1}) == {"a": 1} and both.sizes[1] == HEAD


@pytest.mark.parametrize("name", structures())
def test_every_structure_crosses_twice(name: str) -> None:
    both, value = Wire(), structures()[name]
    assert same(both.cross(value), value)
    assert same(both.cross(value), value)


def test_the_end_is_a_message() -> None:
    assert Wire().decoder.open(bytearray(wire.END_MESSAGE)) is None


class Work:
    """A send of a backend; counts the waits, of which Gloo's lets one alone return."""

    def __init__(self) -> None:
        self.waits = 0

    def is_completed(self) -> bool:
        return self.waits > 0

    def wait(self) -> None:
        self.waits += 1


def test_sends_are_kept_until_they_were_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sends, works = OnTheirWay(), [Work() for _ in range(MOST + 3)]
    monkeypatch.setattr("torch.distributed.isend", lambda work, *_: work)
    handles = [Handle("channel") for _ in works]
    for handle, work in zip(handles, works, strict=True):
        sends.make_room()
        sends.add(handle)
        handle.send(work, 1, None, 0)
    assert [work.waits for work in works] == [1] * 3 + [0] * MOST
    for _ in range(2):
        handles[3].wait()
    sends.make_room()
    sends.wait()
    assert [work.waits for work in works] == [1] * (MOST + 3)


def test_tensors_between_devices_are_received_in_the_order_of_their_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    group = torch.nn.Identity()  # anything that can be referred to weakly
    first, second = Orders(group, 1), Orders(group, 1)
    orders = []
    for each in (first, second, first):
        orders.append(each.next)
        each.sent(2)
    assert orders == [0, 2, 4] and Orders(group, 2).next == 0
    first.receiving(0, 2)
    with pytest.raises(RuntimeError, match="number 4 .* and 2 is the next one: receive"):
        first.receiving(4, 2)
    second.receiving(2, 2)
