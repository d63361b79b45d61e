"""Where the ranks of one machine compute, and how they talk: CPU, one GPU for all, or one each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["DEVICES", "Placement", "place", "stage_through_host"]

DEVICES = ("auto", "cpu", "cuda")
"""Devices a user may ask for; "auto" is "cuda" where there is a GPU."""


@dataclass(frozen=True)
class Placement:
    """The device type of all ranks, the number of GPUs they share, and their backend.

    With ``staged`` messages between ranks go through host memory: NCCL refuses two ranks on one
    GPU, and gloo sends no CUDA tensor from rank to rank.
    """

    device: str
    gpus: int
    backend: str
    staged: bool

    def __str__(self) -> str:
        if self.device == "cpu":
            return f"CPU, {self.backend}"
        through = ", messages staged through the host" if self.staged else ""
        names = sorted({torch.cuda.get_device_name(index) for index in range(self.gpus)})
        return f"{self.gpus} x {' and '.join(names)}, {self.backend}{through}"


def place(device: str, world: int, engine: str = "deepspeed") -> Placement:
    """Return where ``world`` ranks compute; raises ``ValueError`` for a device that is not there.

    With as many GPUs as ranks each has its own, and NCCL; with fewer they share them, over gloo,
    which torch's schedules (``engine`` "torch") cannot do.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    there = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and there == 0:
        raise ValueError("device 'cuda': torch sees no GPU; use 'cpu', or a CUDA build of torch")
    if there == 0:
        return Placement("cpu", 0, "gloo", staged=False)
    alone = there >= world
    if engine == "torch" and not alone:
        raise ValueError(
            f"torch's schedules need a GPU for each of the {world} stages, and torch sees {there}; "
            f"use device 'cpu', fewer stages, or the engine 'deepspeed'"
        )
    return Placement("cuda", min(there, world), "nccl" if alone else "gloo", staged=not alone)


def stage_through_host() -> None:
    """Let this process send and receive tensors of any device over a backend that takes CPU's.

    Replaces ``torch.distributed``'s ``send`` and ``recv``, which DeepSpeed's engine calls, and lets
    its ``broadcast``, which refuses a leaf that requires a gradient, take a detached one.
    """
    send, recv, broadcast = dist.send, dist.recv, dist.broadcast

    def staged_send(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return send(tensor.cpu(), *args, **kwargs)

    def staged_recv(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if tensor.is_cpu:
            return recv(tensor, *args, **kwargs)
        received = torch.empty_like(tensor, device="cpu")
        source = recv(received, *args, **kwargs)
        tensor.copy_(received)
        return source

    def detached_broadcast(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return broadcast(tensor.detach(), *args, **kwargs)

    dist.send, dist.recv, dist.broadcast = staged_send, staged_recv, detached_broadcast
