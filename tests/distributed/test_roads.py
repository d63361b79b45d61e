"""Roads among three ranks, through shared memory and through a process group."""

from __future__ import annotations

import os
import random
import signal
import time
from array import array
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

import pipecodec
from pipecodec.demo.launch import Rank
from pipecodec.engine import boundary_roads
from pipecodec.engine.together import gathered
from pipecodec.roads import Wanted, open_roads
from pipecodec.roads.messages import MessageSender
from tests import shared_memory, varying

from .harness import TIMEOUT, outcomes, values

WORLD = 3
SIZES = (0, 1, 1007, 1008, 1009, 5000, 3_000_000)


def start(rank: Rank, shared_memory: bool) -> tuple[list[Any], list[Any]]:
    """Open two roads from every rank to the next one, and one back."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    after, before = (rank.rank + 1) % WORLD, (rank.rank - 1) % WORLD
    senders, receivers = open_roads(
        [Wanted("on", after), Wanted("on too", after), Wanted("back", before)],
        [Wanted("on", before), Wanted("on too", before), Wanted("back", after)],
        lambda value: gathered(None, value),
        lambda: None,
        timeout=10.0,
        shared_memory=shared_memory,
    )
    return senders, receivers


def exchange(rank: Rank, shared_memory: bool) -> int:
    """Send on all roads at once; return the number of messages that came as they were sent."""
    senders, receivers = start(rank, shared_memory)
    expected = []
    for number, sender in enumerate(senders):
        for size in SIZES:
            sender.post(bytes([rank.rank, number]), random.Random(size).randbytes(size))
        sender.post(memoryview(array("Q", [rank.rank, number])), b"wide items")
    right = 0
    for number, receiver in enumerate(receivers):
        source = (rank.rank + (1 if number == 2 else -1)) % WORLD
        expected = [bytes([source, number]) + random.Random(s).randbytes(s) for s in SIZES]
        expected.append(array("Q", [source, number]).tobytes() + b"wide items")
        right += sum(bytes(receiver.take()) == each for each in expected)
    for sender in senders:
        sender.finish()
    dist.barrier()
    return right


@pytest.mark.parametrize("shared_memory", [True, False])
def test_messages_come_as_they_were_sent(shared_memory: bool) -> None:
    assert values(exchange, WORLD, shared_memory) == [3 * (len(SIZES) + 1)] * WORLD


def unlike(rank: Rank) -> list[str]:
    """Want roads that the ranks do not want alike; return the errors."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    own = rank.rank
    wanted: list[tuple[Any, Any]] = [
        (
            [Wanted("a", 1)] * 2 if own == 0 else [],
            [Wanted("a", 0)] if own == 1 else [],
        ),
        ([Wanted("a", 1)] if own == 0 else [], []),
        ([], [Wanted("a", 0)] if own == 2 else []),
        ([Wanted("a", 1)] if own == 0 else [], [Wanted("b", 0)] if own == 1 else []),
        ([Wanted("a", 7)] if own == 0 else [], []),
        ([Wanted(None, 1)] if own == 0 else [], [Wanted(None, 0)] if own == 1 else []),  # type: ignore[arg-type]
    ]
    errors = []
    for sending, receiving in wanted:
        try:
            open_roads(
                sending, receiving, lambda value: gathered(None, value), lambda: None, timeout=5.0
            )
        except (TypeError, ValueError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def test_roads_without_two_ends_are_refused_on_all_ranks() -> None:
    for errors in values(unlike, WORLD):
        assert errors == [
            "ValueError: rank 0 sends road 'a' to rank 1 twice: give each a name of its own",
            "ValueError: rank 0 sends road 'a' to rank 1, which receives none of that name",
            "ValueError: rank 2 receives road 'a' from rank 0, which sends none of that name",
            "ValueError: rank 0 sends road 'a' to rank 1, which receives none of that name",
            "ValueError: rank 0 sends road 'a' to rank 7, which receives none of that name",
            "TypeError: rank 0 sends road None to rank 1: its name must be a text",
        ]


def number(rank: Rank) -> str:
    """Plant a message in the place of another one, in a process group."""
    senders, receivers = start(rank, False)
    sender = senders[0]
    assert isinstance(sender, MessageSender)
    sender.posted += 1
    sender.post(b"the second")
    try:
        receivers[0].take()
    except ConnectionError as error:
        return str(error)
    finally:
        dist.barrier()
    return "nothing was noticed"


def test_a_message_out_of_order_is_refused() -> None:
    for rank, text in enumerate(values(number, WORLD)):
        assert text == f"on, rank {(rank - 1) % WORLD}: message 1 came in the place of 0"


def fail(rank: Rank, way: str) -> tuple[str, str, float]:
    """Train; the first stage then ends, raises or stands still while the others wait for it."""
    boundary_roads.SHARED_MEMORY = way != "killed, messages"
    config = {
        "train_micro_batch_size_per_gpu": varying.ROWS,
        "gradient_accumulation_steps": varying.MICRO_BATCHES,
    }
    engine = pipecodec.deepspeed.initialize(
        varying.partition(),
        loss_fn=varying.loss_fn,
        config=config,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        read="ahead",
    )[0]
    first, second, _ = varying.batches()
    engine.train_batch(iter([((x, lengths), labels) for x, lengths, labels in first]))
    if rank.rank == 0:
        (stage,) = engine.module.forward_funcs

        def broken(*args: Any) -> Any:
            if way == "raises":
                raise ValueError("planted")
            os.kill(os.getpid(), signal.SIGKILL)

        stage.mod.forward = broken
    began = time.monotonic()
    try:
        engine.train_batch(iter([((x, lengths), labels) for x, lengths, labels in second]))
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - began
    return "", "no error", 0.0


@pytest.mark.parametrize("way", ["raises", "killed", "killed, messages"])
def test_all_ranks_learn_why_no_frame_comes(way: str) -> None:
    before = shared_memory.names()
    first, *others = outcomes(fail, WORLD, way)
    for each in others:
        assert each.status == "ok", each.detail
        name, text, seconds = each.value
        assert name == "RemoteError" and seconds < TIMEOUT / 2
        assert ("planted" if way == "raises" else "the process of rank 0 ended") in text
    assert first.status == ("ok" if way == "raises" else "died")
    assert shared_memory.names() <= before
