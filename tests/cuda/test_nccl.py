"""One boundary between two processes: on two GPUs over NCCL, and the same on the CPU over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipecodec import Codec
from pipecodec.demo.launch import Rank
from tests.distributed.harness import values

from .gpu import needs_gpus

STEPS = 3


def given(device: str, step: int) -> dict[str, Any]:
    """Whole numbers, so that sums are exact wherever they are made."""
    hidden = torch.arange(12.0).reshape(3, 4) + step
    half = torch.arange(5).bfloat16()
    value = {
        "hidden": hidden.to(device).requires_grad_(),
        "half": half.to(device).requires_grad_(),
        "mask": torch.tensor([True, False, True]).to(device),
        "large": torch.arange(3000).to(device),
        "step": step,
        "cache": None,
    }
    return value


def loss_of(value: dict[str, Any]) -> Tensor:
    scale = value["step"] + value["large"][-1]
    masked = value["hidden"] * value["mask"][:, None] * scale
    return masked.sum() + (value["half"].float() * 2).sum()


def crossing(rank: Rank, backend: str, kind: str) -> list[Any]:
    device = kind if kind == "cpu" else f"cuda:{rank.rank}"
    if kind == "cuda":
        torch.cuda.set_device(rank.rank)
    dist.init_process_group(backend, rank=rank.rank, world_size=rank.world)
    codec: Any = Codec(transport="tunnel", name="boundary")
    sizes = [(t.shape, t.dtype) for t in Codec(transport="tunnel").pack(given(device, 0))]
    results = []
    for step in range(STEPS):
        value = given(device, step)
        if rank.rank == 0:
            sent = codec.send(value, None)
            for tensor in sent:
                dist.send(tensor.detach(), 1)
            gradient = torch.empty_like(sent[0])
            dist.recv(gradient, 1)
            sent[0].backward(gradient)
            results.append([value["hidden"].grad.tolist(), value["half"].grad.tolist()])
        else:
            received = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in sizes]
            for tensor in received:
                dist.recv(tensor, 0)
            received[0].requires_grad_()
            loss = loss_of(codec.receive(received)[0])
            loss.backward()
            dist.send(received[0].grad, 0)
            results.append(loss.item())
    dist.destroy_process_group()
    return results


@pytest.mark.parametrize(
    ("backend", "kind"),
    [("gloo", "cpu"), pytest.param("nccl", "cuda", marks=needs_gpus(2))],
)
def test_boundary_trains_as_one_process(backend: str, kind: str) -> None:
    gradients, losses = values(crossing, 2, backend, kind)
    for step in range(STEPS):
        value = given("cpu", step)
        loss = loss_of(value)
        loss.backward()
        assert losses[step] == loss.item()
        assert gradients[step] == [value["hidden"].grad.tolist(), value["half"].grad.tolist()]
