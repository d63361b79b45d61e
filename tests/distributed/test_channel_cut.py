"""Values that are cut short: by a signal, by memory that runs out, by an end that leaves."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
import torch.distributed as dist

import pipecodec
from pipecodec import Channel
from pipecodec.demo.launch import Rank

from .channels import LARGE, join, raised, ways
from .harness import values

SOON = 5.0
"""Seconds in which an end notices that the other one left."""


class Interrupt(Exception):
    """Raised by the handler."""


def interrupted(act: Callable[[], Any], chance: random.Random) -> Any:
    """Return the result of ``act``, or None where a signal's handler raised in it."""
    try:
        signal.setitimer(signal.ITIMER_REAL, 10 ** chance.uniform(-5, -2))
        result = act()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return result
    except Interrupt:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def numbered(number: int) -> list[Any]:
    """A value whose frame is one of two, with a tensor of its own beside the frame."""
    return ["aab"[number % 3], "text" * 400, torch.full((1000,), number)]


def one_channel(rank: int, interrupt: int, chance: random.Random) -> Iterator[int]:
    """Yield the numbers of the values that come, each of them whole."""
    channel = Channel(1 - rank)
    channel.send("begin"), channel.recv()
    last = -1
    try:
        for number in range(40):
            act = channel.recv if rank else partial(channel.isend, numbered(number))
            found = interrupted(act, chance) if rank == interrupt else act()
            if rank and found is not None:
                this = int(found[2][0])
                assert this > last
                assert torch.equal(found[2], numbered(this)[2]) and found[:2] == numbered(this)[:2]
                last = this
                yield this
        channel.close()
    except ConnectionError:
        with suppress(Interrupt, ConnectionError), channel:
            raise Interrupt from None


def under_signals(rank: Rank, interrupt: int, seed: int, count: int) -> int:
    """Return how many values came."""
    join()
    signal.signal(signal.SIGALRM, handler)
    chance = random.Random(seed)
    rounds = range(count)
    return sum(len([*one_channel(rank.rank, interrupt, chance)]) for _ in rounds)


def handler(*_: object) -> None:
    raise Interrupt


@pytest.mark.parametrize("interrupt", [0, 1], ids=["sender", "receiver"])
def test_interrupts_mistake_no_value(interrupt: int, seed: int) -> None:
    _, came = values(under_signals, 2, interrupt, seed, 25, timeout=120.0)
    assert came > 0


def without_memory(rank: Rank, way: str) -> tuple[str, str]:
    """The memory for the second value's tensors cannot be had once."""
    join(way)
    channel = Channel(1 - rank.rank)
    if rank.rank == 0:
        handles = [channel.isend([number, torch.full((LARGE,), number)]) for number in range(3)]
        assert channel.recv() == "go on"
        dist.barrier()
        del handles
        return "", ""
    assert channel.recv()[0] == 0
    get, channel._memory.get = channel._memory.get, none_left
    assert raised(channel.recv)[0] == "MemoryError"
    channel._memory.get = get
    first, second = raised(channel.recv), raised(channel.recv)
    channel.send("go on")  # the other direction is as it was
    assert first == second
    dist.barrier()
    return first


def none_left(size: int) -> torch.Tensor:
    raise MemoryError


@ways
def test_a_value_without_memory_ends_what_follows(way: str) -> None:
    kind, text = values(without_memory, 2, way)[1]
    assert kind == "ConnectionError"
    assert "channel 0 of ranks 1 and 0: MemoryError cut a recv short" in text


def broadcast_without_memory(rank: Rank) -> list[tuple[str, str]]:
    """Rank 1 has no memory for a tensor once; the next call is an error in place of a crash."""
    join()
    large = torch.ones(LARGE)
    if rank.rank == 0:
        return [raised(lambda: pipecodec.broadcast(large, 0)), ("", "")]
    empty = torch.empty
    torch.empty = lambda size, **rest: none_left(size) if size > 2000 else empty(size, **rest)
    first = raised(lambda: pipecodec.broadcast(None, 0))
    torch.empty = empty
    return [first, raised(lambda: pipecodec.broadcast(None, 0))]


def test_a_broadcast_without_memory_ends_what_follows() -> None:
    (first, _), (second, third) = values(broadcast_without_memory, 2)
    assert second[0] == "MemoryError" and third[0] == "ConnectionError"
    assert third[1].startswith("broadcast from rank 0: MemoryError cut a broadcast short")
    assert first[0] in ("ConnectionError", "nothing")  # gloo may have sent it before rank 1 ends


def leaving(rank: Rank, case: str) -> list[str]:
    """Rank 0 has a large value on its way when one of the two leaves; both use the group after."""
    join()
    channel = Channel(1 - rank.rank)
    channel.send("begin"), channel.recv()
    large, found = torch.ones(4 * LARGE), []
    since = time.monotonic()
    if case == "the sender raises":
        if rank.rank == 0:
            with suppress(Interrupt), channel:
                channel.isend(large)
                raise Interrupt
        else:
            assert torch.equal(channel.recv(), large)
            found = [raised(channel.recv)[0]]
    elif rank.rank == 0:
        found = [raised(lambda: channel.send(large))[0], raised(channel.recv)[0]]
    elif case == "the receiver closes":
        channel.close()
    else:
        with suppress(Interrupt), channel:
            raise Interrupt
    assert time.monotonic() - since < SOON
    total = torch.ones(2)
    dist.all_reduce(total)
    assert total.tolist() == [2, 2]
    return found


@pytest.mark.parametrize("case", ["the sender raises", "the receiver closes", "it raises"])
def test_an_end_that_leaves_is_an_error_at_once(case: str) -> None:
    own, others = values(leaving, 2, case)
    assert {*own, *others} == {"ConnectionError"}


def closed_behind_values(rank: Rank) -> list[Any]:
    join()
    channel = Channel(1 - rank.rank)
    store: Any = dist.distributed_c10d._get_default_store()
    if rank.rank == 0:
        channel.send("one"), channel.send("two")
        channel.close()
        store.set("closed", "")
        store.wait(["received"])
        return []
    store.wait(["closed"])
    found = [raised(lambda: channel.send("too late"))[0], channel.recv(), channel.recv()]
    store.set("received", "")
    return [*found, raised(channel.recv)[0]]


def test_values_before_an_end_are_received_though_nothing_can_be_sent() -> None:
    error = "ConnectionError"
    assert values(closed_behind_values, 2)[1] == [error, "one", "two", error]


def closed_by_another_thread(rank: Rank) -> None:
    join()
    channel = Channel(1 - rank.rank)
    if rank.rank == 1:
        time.sleep(1)
        assert len(channel.recv()) == LARGE
        assert raised(channel.recv)[0] == "ConnectionError"
        return
    thread = threading.Thread(target=channel.send, args=(torch.ones(LARGE),))
    thread.start()
    time.sleep(0.3)
    since = time.monotonic()
    channel.close()
    thread.join()
    assert time.monotonic() - since < SOON


def test_one_thread_closes_while_another_one_sends() -> None:
    values(closed_by_another_thread, 2)


def forked(rank: Rank, way: str) -> int:
    """Return the exit code of a forked process, which is told that the channel is not its own."""
    join(way)
    channel = Channel(1 - rank.rank)
    channel.send("begin"), channel.recv()
    child = os.fork()
    if child == 0:
        told = [raised(lambda: channel.send(1)), raised(channel.recv)]
        right = all("belongs to the process that forked" in text for _, text in told)
        os._exit(0 if right else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@ways
def test_a_forked_process_has_no_part_in_a_channel(way: str) -> None:
    assert values(forked, 2, way) == [0, 0]


def ended(rank: Rank) -> list[tuple[str, str]]:
    join()
    channel, closed = Channel(1 - rank.rank), Channel(1 - rank.rank)
    for end in (channel, closed):
        end.send("begin"), end.recv()
    dist.barrier()
    dist.destroy_process_group()
    closed.close()
    return [raised(lambda: channel.send(torch.ones(LARGE))), raised(channel.recv)]


def test_a_channel_ends_with_torch_distributed() -> None:
    for kind, text in chain(*values(ended, 2)):
        assert kind == "ConnectionError" and "torch.distributed was ended" in text
