"""Whoever waits in a communication wakes when this process, or the other side, ends it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipecodec.demo.launch import Rank
from pipecodec.engine.connections import shut

from .harness import values

ROUNDS = 40
TIMEOUT = timedelta(seconds=4)
"""Of the groups: whoever waits in vain wakes then, with an error that says so."""


def soon(act: Callable[[], Any], seed: str) -> threading.Thread:
    """Start ``act`` within 10 ms; the same seed draws the same moment."""
    pause = random.Random(seed).random() * 0.01
    thread = threading.Thread(target=lambda: [time.sleep(pause), act()])
    thread.start()
    return thread


def meet(store: Any, key: str, world: int) -> None:
    store.add(key, 1)
    while store.add(key, 0) < world:
        time.sleep(0.001)


def send_until_shut(rank: Rank) -> list[str]:
    """Send from rank 0 to rank 1 until both shut their connections; return the errors' texts."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    store: Any = dist.distributed_c10d._get_default_store()
    errors = []
    for number in range(ROUNDS):
        group = dist.new_group([0, 1], timeout=TIMEOUT)
        small = torch.zeros(64)
        meet(store, f"group {number}", rank.world)  # the other one's may not be made yet
        thread = soon(lambda: shut(None, set()), f"{number} {rank.rank}")
        try:
            while True:
                if rank.rank:
                    dist.recv(small, 0, group)
                else:
                    dist.send(small, 1, group)
        except RuntimeError as error:
            errors.append(str(error).splitlines()[0])
        thread.join()
        meet(store, f"round {number}", rank.world)
    if rank.rank:
        store.set("left", "")
    else:
        store.wait(["left"])  # this process has the store
    return errors


def test_a_sender_wakes_whenever_the_connection_ends() -> None:
    """Gloo forgot it where a message could not be written; it slept for the group's timeout."""
    for errors in values(send_until_shut, 2):
        assert len(errors) == ROUNDS
        assert not [error for error in errors if "Timed out" in error]


def descriptors_after(rank: Rank) -> list[int]:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    dist.barrier()
    counts = []
    for _ in range(3):
        with suppress(RuntimeError):
            shut(None, set())
        counts.append(len(os.listdir("/proc/self/fd")))
    return counts


def test_shutting_again_opens_nothing_more() -> None:
    for first, second, third in values(descriptors_after, 2):
        assert first == second == third
