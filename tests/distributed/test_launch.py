"""How ranks are started: the port at which they meet is theirs from the first moment on."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipecodec.demo.launch import Rank

from .harness import outcomes, values


def meet_late(rank: Rank, tried: str) -> float:
    """Join the other ranks only after the launching process tried to take their port."""
    rank.say(int(os.environ["MASTER_PORT"]))
    while not Path(tried).exists():
        time.sleep(0.01)
    dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    return total.item()


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_nobody_takes_the_port_before_the_ranks_meet(host: str, tmp_path: Path) -> None:
    """Another process took it in between, and rank 0 could not listen."""
    refused, tried = [], tmp_path / "tried"
    with socket.socket() as taker:

        def take(rank: int, port: int) -> None:
            if rank == 0:
                try:
                    taker.bind((host, port))
                    taker.listen()
                except OSError as error:
                    refused.append(error.strerror)
                tried.touch()

        ended = outcomes(meet_late, 2, str(tried), on_message=take)
    assert [outcome.value for outcome in ended] == [2.0, 2.0], ended
    assert refused == ["Address already in use"]


def meet_again(rank: Rank) -> list[float]:
    found = []
    for _ in range(2):
        dist.init_process_group("gloo")
        total = torch.ones(1)
        dist.all_reduce(total)
        found.append(total.item())
        dist.barrier()
        dist.destroy_process_group()
    return found


def test_ranks_may_leave_and_meet_again_at_the_same_port() -> None:
    assert values(meet_again, 2) == [[2.0, 2.0]] * 2
