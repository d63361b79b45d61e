"""Run one function in N processes of one machine, and say how each of them ended."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pipecodec.demo.device import Placement, place, stage_through_host

__all__ = ["Outcome", "Rank", "run_ranks"]

_GRACE = 10.0
"""Seconds between a rank's own deadline, at which it dumps its stacks, and being killed."""


@dataclass(frozen=True)
class Rank:
    """A rank as its function sees it: its number, the number of ranks, and a way to speak.

    ``device`` is the type of device that it computes on, ``backend`` the one to join the ranks
    with.
    """

    rank: int
    world: int
    say: Callable[[Any], None]
    device: str = "cpu"
    backend: str = "gloo"


@dataclass
class Outcome:
    """How one rank ended.

    ``status`` is ``"ok"`` (``value`` holds the function's result), ``"error"`` (``detail``
    holds the traceback), ``"hang"`` (the stacks at the deadline), ``"died"`` (the exit code and
    the end of its output) or ``"killed"`` (by ``run_ranks``, after another rank failed).
    """

    rank: int
    status: str
    value: Any = None
    detail: str = ""


def run_ranks(
    function: Callable[..., Any],
    world: int,
    *args: Any,
    timeout: float,
    stop_at_failure: bool = False,
    on_message: Callable[[int, Any], None] | None = None,
    device: str = "cpu",
) -> list[Outcome]:
    """Call ``function(Rank, *args)`` in ``world`` processes and wait for all of them.

    The processes are forked from a server that has made the slow imports once; on GPUs, which a
    forked process cannot use, each makes them itself. ``function`` and ``args`` must be picklable.
    Each process finds the environment that ``torch.distributed`` expects (a port on the loopback
    interface, kept free of other processes until this call ends) and has one thread for torch.
    After ``timeout`` seconds a rank dumps its stacks and ends. With ``stop_at_failure`` the first
    rank that fails ends the others.
    ``on_message(rank, message)`` gets each message of a rank. ``device`` is one of
    ``pipecodec.demo.device.DEVICES``. However this call ends, no process of it is left. Raises
    ``ValueError`` for a device that is not there.
    """
    placement = place(device, world)
    context: Any = multiprocessing.get_context("spawn")
    if placement.device == "cpu":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipecodec.demo.preload"])
    outcomes: dict[int, Outcome] = {}
    with (
        _reserved_port() as port,
        tempfile.TemporaryDirectory(prefix="pipecodec-") as folder,
        contextlib.ExitStack() as stack,
    ):
        processes: list[BaseProcess] = []
        pipes: dict[Connection, int] = {}
        stack.callback(_end, processes)
        for rank in range(world):
            receiver, sender = context.Pipe(duplex=False)
            log = Path(folder, f"{rank}.log")
            process = context.Process(
                target=_rank_main,
                args=(function, args, rank, world, port, sender, str(log), timeout, placement),
            )
            process.start()
            sender.close()
            stack.callback(receiver.close)
            processes.append(process)
            pipes[receiver] = rank
        deadline = time.monotonic() + timeout + _GRACE
        while pipes:
            ready = wait(list(pipes), max(0.0, deadline - time.monotonic()))
            for pipe, rank in [entry for entry in pipes.items() if entry[0] in ready]:
                try:
                    kind, payload = pipe.recv()
                except EOFError:
                    del pipes[pipe]
                    if rank not in outcomes:
                        log = Path(folder, f"{rank}.log")
                        outcomes[rank] = _without_a_word(rank, processes[rank], log)
                    continue
                if kind == "message":
                    if on_message is not None:
                        on_message(rank, payload)
                elif kind == "ok":
                    outcomes[rank] = Outcome(rank, "ok", value=payload)
                else:
                    outcomes[rank] = Outcome(rank, "error", detail=payload)
            failed = any(outcome.status != "ok" for outcome in outcomes.values())
            if not ready or (failed and stop_at_failure):
                break
    for rank in range(world):
        outcomes.setdefault(rank, Outcome(rank, "killed"))
    return [outcomes[rank] for rank in range(world)]


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """Yield a port that the system gives to no other process until this ends.

    The socket is bound and does not listen, so rank 0's store, which sets SO_REUSEADDR as this one
    does, may bind and listen on its port; bound to port 0, or connecting, nobody gets it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _without_a_word(rank: int, process: BaseProcess, log: Path) -> Outcome:
    process.join(_GRACE)
    printed = log.read_text(errors="replace") if log.exists() else ""
    status = "hang" if "Timeout (" in printed else "died"
    return Outcome(rank, status, detail=f"exit code {process.exitcode}\n{printed[-6000:]}")


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()
        process.close()


def _rank_main(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world: int,
    port: int,
    pipe: Connection,
    log: str,
    timeout: float,
    placement: Placement,
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable(descriptor)
    faulthandler.dump_traceback_later(timeout, exit=True, file=descriptor)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank % placement.gpus if placement.gpus else rank),
        WORLD_SIZE=str(world),
        LOCAL_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    torch.set_num_threads(1)
    try:
        if placement.device != "cpu":
            _use_gpu(placement, rank)
        told = Rank(
            rank,
            world,
            lambda message: pipe.send(("message", message)),
            placement.device,
            placement.backend,
        )
        value = function(told, *args)
        pipe.send(("ok", value))
    except Exception:
        pipe.send(("error", traceback.format_exc()))
    faulthandler.cancel_dump_traceback_later()


def _use_gpu(placement: Placement, rank: int) -> None:
    import torch
    import torch.distributed as dist

    os.environ["PIPECODEC_DEVICE"] = placement.device
    import pipecodec.demo.preload  # noqa: F401

    torch.cuda.set_device(rank % placement.gpus)
    if placement.staged:
        stage_through_host()
        # DeepSpeed would name a device, with which gloo cannot make further groups.
        dist.init_process_group(placement.backend)
