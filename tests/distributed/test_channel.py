"""Any value from rank to rank through a channel, and to all ranks."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from collections import namedtuple
from itertools import islice
from typing import Any

import pytest
import torch
import torch.distributed as dist

import pipecodec
from pipecodec import Channel
from pipecodec.channel import channel as module
from pipecodec.demo.launch import Rank
from tests.corpus import same, structures
from tests.random_values import random_values
from tests.simdev import load

from .channels import LARGE, join, raised, ways
from .harness import values
from .test_verified import build_device


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
        assert channel._memory._kept
        for end in (channel, second):
            for _ in range(2):
                assert raised(end.recv)[0] == "ConnectionError"
            end.close()
        assert not channel._memory._kept
    dist.destroy_process_group()
    return errors


@ways
def test_values_cross(way: str, seed: int) -> None:
    count = 5_000 if way == "shared memory" else 500  # each way
    for number, (refusal, unknown) in enumerate(values(cross, 2, way, seed, count)):
        assert refusal[0] == "UnsupportedTypeError"
        assert f"channel 0 of ranks {number} and {1 - number}: outputs['bad'][0]" in refusal[1]
        if number == 1:
            assert unknown[0] in ("FrameError", "UnsupportedTypeError")
            assert "only_here" in unknown[1]


def three(rank: Rank) -> list[tuple[str, str]]:
    not_started = raised(lambda: Channel(1)), raised(lambda: pipecodec.broadcast(1, 0))
    join()
    own, world = rank.rank, rank.world
    pair = dist.new_group([0, 2])
    rank.say("a ring of ranks")
    onward, back = (own + 1) % world, (own - 1) % world
    to, of = Channel(onward), Channel(back)
    for step in range(3):
        to.isend({"of": own, "step": step, "tensor": torch.full((30_000 * step,), own)})
    for step in range(3):
        value = of.recv()
        assert (value["of"], value["step"]) == (back, step)
        assert torch.equal(value["tensor"], torch.full((30_000 * step,), back))
    rank.say("a subgroup")
    if own != 1:
        channel = Channel(2 - own, pair)
        channel.isend([own, torch.ones(LARGE)])
        assert channel.recv()[0] == 2 - own
        assert pipecodec.broadcast({"of": own}, 2, pair) == {"of": 2}
    rank.say("broadcast")
    many = [torch.full((3000,), i) for i in range(70)]
    for value in [*structures().values(), [torch.ones(LARGE), {"a": 1}], many, "text" * 999]:
        for src in (0, 2):
            assert same(pipecodec.broadcast(value if own == src else None, src), value)
    parameter = torch.nn.Parameter(torch.ones(3))
    got = pipecodec.broadcast(parameter if own == 1 else None, 1)
    assert got is parameter or not got.requires_grad
    rank.say("errors")
    bad = raised(lambda: pipecodec.broadcast([1, object()] if own == 1 else None, 1))
    unlike = bad
    if own != 1:
        unlike = raised(Channel(2 - own, pair if own == 0 else None).recv)
    dist.barrier()
    return [
        *not_started,
        raised(lambda: Channel(own)),
        raised(lambda: Channel(3)),
        raised(lambda: Channel(True)),
        raised(lambda: Channel("1")),
        raised(lambda: Channel(onward, "gloo")),
        raised(lambda: Channel(onward, device="nowhere")),
        raised(lambda: Channel(1 if own == 0 else 0, pair)) if own != 2 else bad,
        raised(lambda: pipecodec.broadcast(1, 5)),
        bad,
        unlike,
    ]


def test_three_ranks() -> None:
    found = values(three, 3)
    for own, errors in enumerate(found):
        texts = [f"{kind}: {text}" for kind, text in errors]
        expected = [
            "RuntimeError: Channel needs torch.distributed",
            "RuntimeError: broadcast needs torch.distributed",
            f"ValueError: peer {own} is this rank itself",
            "ValueError: peer 3 is not in the group, whose ranks are [0, 1, 2]",
            "ValueError: peer must be the global rank of a process, not True",
            "ValueError: peer must be the global rank of a process, not '1'",
            "TypeError: group must be a process group of torch.distributed, or None, not 'gloo'",
            "ValueError: device 'nowhere' cannot be used",
            (
                "ValueError: peer 1 is not in the group",
                "ValueError: group: rank 1 is not in it",
                "",
            )[own],
            "ValueError: src 5 is not in the group",
            ("UnsupportedTypeError" if own == 1 else "CodecError")
            + ": broadcast from rank 1: outputs[1] is of type object",
            "ValueError: the two ends of a channel have different groups" if own != 1 else "",
        ]
        for text, begin in zip(texts, expected, strict=True):
            assert text.startswith(begin), (own, text, begin)


def without_cpu(rank: Rank, way: str) -> None:
    """The group sends no tensor of the CPU, so the two make another one for those."""
    join(way, backend="cuda:gloo")
    if rank.rank:
        dist.new_group([1], backend="gloo", use_local_synchronization=True)
    first, second = Channel(1 - rank.rank), Channel(1 - rank.rank)
    sent = [{"a": 1}, torch.ones(LARGE)]
    first.isend(sent)
    second.isend("other")
    assert second.recv() == "other"
    assert same(first.recv(), sent)
    first.close()
    # Closes, and does not wait; the other end may have done so before this one sends.
    with contextlib.suppress(KeyError, ConnectionError), second:
        second.isend(sent)
        raise KeyError
    assert raised(second.recv)[0] == raised(lambda: second.send(1))[0] == "ConnectionError"


@ways
def test_a_group_that_sends_no_tensor_of_the_cpu(way: str) -> None:
    values(without_cpu, 2, way)


def between_devices(rank: Rank, staged: bool) -> Any:
    """Values of a simulated device; its tensors are sent as they are, or as copies on the CPU.

    No backend sends tensors of that device, so torch's own functions do it through the CPU.
    """
    device = load()
    join()
    if not staged:
        isend, recv = dist.isend, dist.recv
        module.sends = lambda group, device: True
        dist.isend = lambda tensor, *rest: isend(tensor.cpu(), *rest)

        def received(tensor: torch.Tensor, *rest: Any) -> None:
            host = torch.empty_like(tensor, device="cpu")
            recv(host, *rest)
            tensor.copy_(host)

        dist.recv = received
    peer = 1 - rank.rank
    channel, second = Channel(peer), Channel(peer, device="cpu" if rank.rank else "sim")
    waits = []
    for step in range(4):
        there = torch.arange(3000.0).reshape(30, 100).to("sim") + step
        value = {"large": there, "again": there, "small": there[0], "step": step, "t": there.t()}
        only_large = [there, "no bytes of leaves in the frame", step]
        device.reset()
        if not staged:
            channel._encoder.encode(value), channel._encoder.encode(only_large)
            waits.append(device.counts("device to host", "sync"))
        for sent in (value, only_large):
            channel.isend(sent)
        got, large = channel.recv(), channel.recv()
        assert {t.device.type for t in (*large[:1], got["large"], got["small"])} == {"sim"}
        assert torch.equal(large[0].cpu(), there.cpu()) and large[2] == step
        assert got["again"] is got["large"] and got["step"] == step
        for name in ("large", "small", "t"):
            assert torch.equal(got[name].cpu(), value[name].cpu())
            assert got[name].stride() == value[name].stride()
    type_ = second.device.type
    for sent in ([there, there[1], 5], [there.cpu(), there[1].cpu(), 5]):
        second.isend(sent)
        large, small, number = second.recv()
        assert (large.device.type, small.device.type, number) == (type_, type_, 5)
        assert torch.equal(large.cpu(), there.cpu()) and torch.equal(small.cpu(), there[1].cpu())
    if staged:
        return waits, ("", "")
    for each in (channel, second):
        each.isend([there, there])
    return waits, raised(second.recv)


@pytest.mark.parametrize("staged", [True, False], ids=["through the host", "between devices"])
def test_values_of_a_device(staged: bool) -> None:
    build_device()
    for waits, (kind, text) in values(between_devices, 2, staged):
        if not staged:
            assert waits == [{"device to host": 0, "sync": 0}] * 4
            assert kind == "RuntimeError"
            assert "receive from several channels in the order of their sends" in text
