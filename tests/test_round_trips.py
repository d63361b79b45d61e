"""Waits for a device, and copies between it and the host, on a simulated one.

The host cannot read the device's memory, and every copy, wait and event is counted.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.realistic import realistic
from benchmarks.structures import Structure, synthetic
from pipecodec import Codec, partition_modules
from pipecodec.deepspeed import DeepSpeedPipeStageWrapper
from pipecodec.demo.launch import Rank
from pipecodec.engine.batch import packing_batch_fn
from pipecodec.stages.local_inputs import find_local_inputs

from .corpus import same
from .distributed.harness import values
from .simdev import Device, load
from .simdev.__main__ import table
from .simdev.steady import on_device, on_host, origin_receive, origin_send

STRUCTURES = {structure.name: structure for structure in (*synthetic(), *realistic())}
WORD = 4
"""Bytes of the flag that says that a frame differed."""

TO_DEVICE, TO_HOST, WAITS = "host to device", "device to host", "sync"


@pytest.fixture(scope="module")
def device() -> Device:
    return load()


def counted(device: Device, call: Any) -> tuple[Any, dict[str, int]]:
    device.reset()
    result = call()
    return result, device.counts(TO_DEVICE, TO_HOST, f"{TO_HOST} bytes", WAITS)


NOTHING = {TO_DEVICE: 0, TO_HOST: 0, f"{TO_HOST} bytes": 0, WAITS: 0}
ONE_WORD = {**NOTHING, TO_HOST: 1, f"{TO_HOST} bytes": WORD}


@pytest.mark.parametrize("transport", ["slots", "tunnel"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_steady_state_copies_nothing_and_never_waits(
    device: Device, name: str, transport: str
) -> None:
    """The first frame of a structure goes to the device once, and is read there once."""
    structure: Structure = STRUCTURES[name]
    value = on_device(structure.value)
    sender, receiver = (Codec(transport=transport, values="static") for _ in range(2))

    packed, sending = counted(device, lambda: sender.pack(value))
    assert sending == {**NOTHING, TO_DEVICE: 1}
    got, receiving = counted(device, lambda: receiver.unpack(packed))
    frame_bytes = packed[-1].numel()
    assert receiving == {**NOTHING, TO_HOST: 1, f"{TO_HOST} bytes": frame_bytes, WAITS: 1}
    for _ in range(3):
        packed, sending = counted(device, lambda: sender.pack(value))
        assert sending == NOTHING
        got, receiving = counted(device, lambda packed=packed: receiver.unpack(packed))
        assert receiving == NOTHING
    _, checking = counted(device, receiver.check)
    assert checking == {**ONE_WORD, WAITS: 1}
    assert receiver.stats.reads == 1
    assert same(on_host(got), on_host(structure.value))


@pytest.mark.parametrize("name", ["S1", "S2", "S4"])
def test_numbers_that_may_differ_are_read_and_nothing_else_is(device: Device, name: str) -> None:
    structure = STRUCTURES[name]
    sender, receiver = Codec(), Codec()
    for i in range(3):
        value = on_device(structure.vary(i))
        packed, sending = counted(device, lambda value=value: sender.pack(value))
        assert sending == {**NOTHING, TO_DEVICE: 1}
        got, receiving = counted(device, lambda packed=packed: receiver.unpack(packed))
        assert (receiving[TO_DEVICE], receiving[TO_HOST], receiving[WAITS]) == (0, 1, 1)
        assert same(on_host(got), on_host(value))
    assert receiver.stats.reads == 3


@pytest.mark.parametrize(("name", "scalars"), [("S1", 1), ("S2", 4), ("S3", 1), ("S5", 0)])
def test_the_origin_copies_and_waits_for_each_number_and_for_its_text(
    device: Device, name: str, scalars: int
) -> None:
    value = on_device(STRUCTURES[name].value)
    for _ in range(2):
        _, counts = counted(device, lambda: origin_receive(origin_send(value)))
        assert counts[TO_DEVICE] == scalars + 1
        assert counts[WAITS] >= counts[TO_DEVICE] + 1


def gradients(rank: Rank) -> None:
    device = load()
    hidden = torch.arange(6.0).to("sim").requires_grad_()
    other = torch.ones(3, dtype=torch.float64).to("sim").requires_grad_()
    sender, receiver = (Codec(transport="tunnel") for _ in range(2))

    def step() -> None:
        tunnel, *rest = sender.pack({"hidden": hidden, "other": other, "unused": hidden * 2})
        received = tunnel.detach().requires_grad_()
        got = receiver.unpack((received, *rest))
        (got["hidden"].sum() * 3 + got["other"].sum().float()).backward()
        tunnel.backward(received.grad)

    step()
    _, counts = counted(device, step)
    assert counts == NOTHING
    assert hidden.grad.cpu().tolist() == [6.0] * 6
    assert other.grad.cpu().tolist() == [2.0] * 3


def stages(rank: Rank) -> None:
    """As the engine runs them: batches are packed on the host, and their tensors go to the device.

    The last stage takes the labels from its own, and the mask that the first one replaces does not.
    """
    device = load()

    class First(nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, step: int) -> dict[str, Any]:
            return {"hidden": ids.float() * weight, "mask": mask, "none": None}

    class Last(nn.Module):
        def forward(
            self, hidden: torch.Tensor, mask: torch.Tensor, none: None, labels: torch.Tensor
        ) -> torch.Tensor:
            return hidden.masked_fill(mask, 0.0).sum() + labels.float().sum()

    weight = torch.ones(4, 8).to("sim").requires_grad_()
    part = partition_modules([First(), Last()], ["ids", "mask", "step", "labels"])
    local = find_local_inputs(part.liveness, part.stage_id_2_arg_names, part.outputs)
    first, last = (
        DeepSpeedPipeStageWrapper(
            stage,
            k,
            f"submod_{k}",
            2,
            part.liveness,
            part.stage_id_2_arg_names,
            packed_batches=True,
            local=local,
        ).to("sim")
        for k, stage in enumerate(part.stages)
    )
    load_batch = packing_batch_fn(first, part.input_names, torch.device("sim"), last=last)

    def loaded(step: int) -> list[torch.Tensor]:
        given = {"ids": torch.ones(4, 8, dtype=torch.long), "mask": torch.arange(8) > 3}
        tensors, labels = load_batch({**given, "step": step, "labels": torch.arange(4)})
        last.last_batches.take(labels.inputs)
        return [tensor.to("sim") for tensor in tensors]

    def micro_batch(tensors: list[torch.Tensor]) -> None:
        sent = first(tuple(tensor.clone() for tensor in tensors))
        received = [tensor.detach().clone() for tensor in sent]
        received[0].requires_grad_()
        last(tuple(received)).backward()
        sent[0].backward(received[0].grad)

    micro_batch(loaded(0))
    for step in range(1, 4):
        tensors = loaded(step)
        _, counts = counted(device, lambda tensors=tensors: micro_batch(tensors))
        assert counts == NOTHING
    assert torch.equal(weight.grad.cpu(), 4.0 * (torch.arange(8) <= 3).expand(4, 8))


@pytest.mark.parametrize("backward", [gradients, stages])
def test_backward_waits_for_nothing(backward: Callable[[Rank], None]) -> None:
    """In a process of its own: autograd knows no device that comes after its first backward."""
    values(backward, 1)


def test_another_frame_on_the_device_is_found(device: Device) -> None:
    sender, receiver = (Codec(transport="tunnel", name="boundary 0→1") for _ in range(2))
    for value in (["a"], ["a"], ["b"]):
        receiver.unpack(sender.pack(on_device([torch.ones(2), *value])))
    with pytest.raises(Exception, match=r"frame 2 .* outputs\[1\] is STR 'b' now and was STR 'a'"):
        receiver.check()


@pytest.mark.slow
def test_the_host_cannot_read_the_device() -> None:
    """Else the counts above would prove nothing."""
    code = (
        "import torch; from tests.simdev import load; device = load()\n"
        "device.peek(torch.ones(3).to('sim'))"
    )
    ended = subprocess.run([sys.executable, "-c", code])
    assert ended.returncode == -signal.SIGSEGV


def test_each_leaf_is_copied_once(device: Device) -> None:
    """For any order of a leaf's elements; zeros are written once, however many gaps there are."""

    def packing(*leaves: torch.Tensor) -> dict[str, int]:
        value = [leaf.requires_grad_() for leaf in leaves]
        Codec(transport="tunnel").pack(value)
        device.reset()
        tunnel, _ = Codec(transport="tunnel").pack(value)
        counts = device.counts("kernel", "alloc")
        bits = [in_memory(on_host(leaf)).view(torch.uint8).flatten() for leaf in leaves]
        size = on_host(tunnel).view(torch.uint8)
        padded = [torch.nn.functional.pad(each, (0, -len(each) % 16)) for each in bits]
        tail = torch.zeros(16 * (len(leaves) > 1), dtype=torch.uint8)
        assert torch.equal(size, torch.cat([*padded, tail]))
        return counts

    def in_memory(leaf: torch.Tensor) -> torch.Tensor:
        order = sorted(range(leaf.dim()), key=lambda i: -leaf.stride(i))
        return leaf.permute(order).contiguous()

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).to("sim")

    in_order = packing(matrix(4, 4), matrix(4, 4))
    assert packing(matrix(4, 4).t(), matrix(4, 8)[:, ::2]) == in_order
    assert packing(matrix(4, 4).permute(1, 0), matrix(4, 4)) == in_order
    assert packing(matrix(2, 3), matrix(4, 4))["kernel"] == in_order["kernel"]


def test_the_page_shows_what_is_counted() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
    assert table() in page.read_text()
