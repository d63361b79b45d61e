"""Errors of a channel, in time: a peer that was killed, and one that does nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipecodec import Channel
from pipecodec.demo.launch import Rank
from tests import shared_memory

from .channels import LARGE, LONG, join, raised, ways
from .harness import outcomes, values

SHORT = timedelta(seconds=2)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def until_it_fails(act: Callable[[], Any]) -> str:
    """Repeat ``act``; return the type of the error that ends it."""
    while True:
        kind, text = raised(act)
        if kind != "nothing":
            return f"{kind}: {text}"
        time.sleep(0.005)


def beside_the_killed(rank: Rank, way: str) -> list[str]:
    """Rank 0 lives on; each other rank is killed while rank 0 does something else with it."""
    join(way, timedelta(seconds=600))
    if rank.rank:
        channel = Channel(0)
        channel.send("here")
        if rank.rank == 2:
            channel.isend(torch.ones(LARGE))
        assert channel.recv() == "go on"
        die()
    channels = [Channel(peer) for peer in range(1, rank.world)]
    for channel in channels:
        assert channel.recv() == "here"
        channel.send("go on")
    waiting, receiving, sending, with_tensors = channels
    return [
        until_it_fails(waiting.recv),
        until_it_fails(receiving.recv),
        until_it_fails(lambda: sending.send({"step": 1})),
        until_it_fails(lambda: with_tensors.send(torch.ones(LARGE))),
        *(until_it_fails(channel.recv) for channel in channels),
    ]


@ways
def test_a_killed_peer_is_an_error(way: str) -> None:
    there = shared_memory.names()
    first, *killed = outcomes(beside_the_killed, 5, way)
    assert first.status == "ok", first.detail
    assert [outcome.status for outcome in killed] == ["died"] * 4
    assert not [text for text in first.value if not text.startswith("ConnectionError")], first.value
    assert shared_memory.names() <= there


def late(rank: Rank, way: str) -> list[tuple[str, str]]:
    """The peer makes no end, sends nothing, takes nothing: all at once."""
    join(way)
    store: Any = dist.distributed_c10d._get_default_store()
    group = dist.new_group([0, 1], timeout=SHORT)
    if rank.rank:
        silent, full = Channel(0, group), Channel(0, group)
        store.wait(["done"], LONG)
        store.set("seen", "")
        if way == "shared memory":
            silent.send("late")
            assert full.recv()[0] == 0
        return []
    silent, full, nobody = (Channel(1, group) for _ in range(3))

    def fill() -> None:
        for number in range(2000):
            full.isend([number, torch.zeros(12_000)])

    found: dict[Callable[[], Any], tuple[str, str]] = {}
    calls = [nobody.recv, silent.recv, fill]
    threads = [
        threading.Thread(target=lambda call=call: found.update({call: raised(call)}))
        for call in calls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.set("done", "")
    store.wait(["seen"], LONG)  # this process has the store
    if way == "shared memory":  # a receive that was in vain ends gloo's connection
        assert silent.recv() == "late"
        assert until_it_fails(full.recv)[:7] in ("Connect", "Timeout")
    return [found[call] for call in calls]


@ways
def test_a_peer_that_does_nothing_is_a_timeout(way: str) -> None:
    nobody, silent, full = values(late, 2, way)[0]
    assert nobody[0] == silent[0] == "TimeoutError"
    assert "rank 1 did not make its end of channel 2 with rank 0 in 2 s" in nobody[1]
    # Gloo ends the whole connection with the first receive that is in vain.
    assert full[0] == "TimeoutError" or (way == "messages" and full[0] == "ConnectionError"), full
