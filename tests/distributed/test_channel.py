"""Any value from rank to rank through a channel, and to all ranks; and all that may fail there."""

from __future__ import annotations

import sys
import threading
import types
from collections import namedtuple
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pipecodec import Channel
from pipecodec.channel import channel as module
from pipecodec.demo.launch import Rank
from tests.corpus import same, structures
from tests.random_values import random_values

from .harness import values

LONG, SHORT = timedelta(seconds=30), timedelta(seconds=2)
WAYS = {"shared memory": True, "messages": False}
ways = pytest.mark.parametrize("way", WAYS)


def join(way: str = "shared memory", timeout: timedelta = LONG, backend: str = "gloo") -> None:
    module.SHARED_MEMORY = WAYS[way]
    dist.init_process_group(backend, timeout=timeout)


def raised(act: Callable[[], Any]) -> tuple[str, str]:
    """Return the type and the text of the error that ``act`` raises."""
    try:
        act()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def both_directions(channel: Channel, own: int, seed: int, count: int) -> None:
    """Send values while the other rank's come, many of them before any is received."""
    mine, theirs = (random_values((seed, rank), count) for rank in (own, channel.peer))
    number = 0
    while chunk := list(islice(mine, 100)):
        for value in chunk:
            channel.isend(value)
        for _ in chunk:
            assert same(channel.recv(), next(theirs)), number
            number += 1


def corpus(channel: Channel) -> None:
    for name, value in structures().items():
        channel.isend(value)
        assert same(channel.recv(), value), name


def kept(channel: Channel) -> None:
    """Aliases, strides and large tensors; none of the received ones requires a gradient."""
    large = torch.nn.Parameter(torch.arange(60_000.0).reshape(200, 300))
    value = [large, large.t(), {"again": large}, torch.ones(2).requires_grad_()]
    handle = channel.isend(value)
    a, transposed, again, small = channel.recv()
    handle.wait()
    assert torch.equal(a, large) and again["again"] is a
    assert torch.equal(transposed, large.t()) and transposed.stride() == large.t().stride()
    assert not any(tensor.requires_grad for tensor in (a, transposed, small))
    a.fill_(1), small.fill_(7)
    channel.isend(value)
    assert torch.equal(channel.recv()[3], torch.ones(2))


def before_any_is_received(channel: Channel, own: int) -> None:
    for number in range(120):
        channel.isend([number, torch.full((20_000,), number)])
    for number in range(120):
        count, tensor = channel.recv()
        assert count == number and bool((tensor == number).all()) and len(tensor) == 20_000


def refused(channel: Channel) -> tuple[str, str]:
    """A value that cannot be sent, between two that can."""
    channel.send({"step": 1})
    error = raised(lambda: channel.send({"hidden": torch.ones(2), "bad": [object()]}))
    channel.send({"step": 2})
    assert [channel.recv(), channel.recv()] == [{"step": 1}, {"step": 2}]
    return error


def unknown_there(channel: Channel, own: int) -> tuple[str, str] | None:
    """A value of a class that only the sender has; the next one arrives."""
    if own == 0:
        sys.modules["only_here"] = there = types.ModuleType("only_here")
        there.Odd = namedtuple("Odd", "value")  # type: ignore[attr-defined]
        there.Odd.__module__ = "only_here"  # type: ignore[attr-defined]
        there.Odd.__qualname__ = "Odd"  # type: ignore[attr-defined]
        channel.isend(there.Odd(torch.ones(30_000)))  # type: ignore[attr-defined]
        channel.isend([torch.ones(30_000), "after"])
        assert channel.recv() == "received"
        return None
    error = raised(channel.recv)
    tensor, text = channel.recv()
    assert torch.equal(tensor, torch.ones(30_000)) and text == "after"
    channel.send("received")
    return error


def apart(first: Channel, second: Channel) -> None:
    """Two channels between the same ranks, received from in the other order."""
    for channel, number in ((first, 1), (second, 2), (first, 3)):
        channel.isend([number, torch.full((30_000,), number)])
    for channel, number in ((second, 2), (first, 1), (first, 3)):
        value, tensor = channel.recv()
        assert value == number and bool((tensor == number).all())


def in_threads(channel: Channel) -> None:
    """One thread sends more than a ring holds, while another receives."""
    sent = [{"number": i, "bytes": bytes(3000)} for i in range(800)]
    thread = threading.Thread(target=lambda: [channel.send(value) for value in sent])
    thread.start()
    assert [channel.recv() for _ in sent] == sent
    thread.join()


def cross(rank: Rank, way: str, seed: int, count: int) -> tuple[Any, Any]:
    join(way)
    peer = 1 - rank.rank
    channel, second = Channel(peer), Channel(peer, group=dist.group.WORLD, device="cpu")
    rank.say("random values")
    both_directions(channel, rank.rank, seed, count)
    for case in (corpus, kept, in_threads):
        rank.say(case.__name__)
        case(channel)
    rank.say("before any is received")
    before_any_is_received(channel, rank.rank)
    rank.say("two channels")
    apart(channel, second)
    errors = refused(channel), unknown_there(channel, rank.rank)
    rank.say("64 MB")
    if rank.rank == 0:
        channel.send(torch.arange(16_000_000, dtype=torch.int32))
    else:
        assert torch.equal(channel.recv(), torch.arange(16_000_000, dtype=torch.int32))
    rank.say("close")
    if rank.rank == 0:
        second.isend(["last", torch.ones(40_000)])
        second.close()
        second.close()
        assert raised(lambda: second.send(1))[0] == raised(second.recv)[0] == "ConnectionError"
        with channel:
            channel.send("last")
        assert raised(channel.recv)[0] == "ConnectionError"
    else:
        assert second.recv()[0] == "last" and channel.recv() == "last"
        for end in (channel, second):
            for _ in range(2):
                assert raised(end.recv)[0] == "ConnectionError"
            end.close()
    dist.destroy_process_group()
    return errors


@ways
def test_values_cross(way: str, seed: int) -> None:
    count = 10_000 if way == "shared memory" else 1_000
    for number, (refusal, unknown) in enumerate(values(cross, 2, way, seed, count)):
        assert refusal[0] == "UnsupportedTypeError"
        assert f"channel 0 of ranks {number} and {1 - number}: outputs['bad'][0]" in refusal[1]
        if number == 1:
            assert unknown[0] in ("FrameError", "UnsupportedTypeError")
            assert "only_here" in unknown[1]
