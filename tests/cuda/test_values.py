"""Values on a GPU come back as they were, and their frames are the CPU's, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipecodec import _C, Codec, pack, unpack
from tests.corpus import same, structures

from .gpu import DEVICES, needs_gpus, on


def boundary() -> tuple[Any, Any]:
    return Codec(transport="tunnel", name="sender"), Codec(transport="tunnel", name="receiver")


def cross(value: Any) -> tuple[tuple[Tensor, ...], Any]:
    sender, receiver = boundary()
    sent = sender.send(value, None)
    return sent, receiver.receive(tuple(t.detach().clone() for t in sent))[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", structures())
def test_value_and_frame_are_the_cpus(name: str, device: str) -> None:
    value = structures()[name]
    there = on(device, value)
    packed = pack(there, device)
    assert packed[-1].device.type == device
    assert torch.equal(packed[-1].cpu(), pack(value)[-1])
    assert same(on("cpu", unpack(packed)), on("cpu", value))


def leaves(seed: int) -> list[Tensor]:
    """Many, of every alignment, empty ones among them, and some that take many blocks."""
    random = torch.Generator().manual_seed(seed)

    def bits(size: int, dtype: torch.dtype) -> Tensor:
        nbytes = size * torch.empty(0, dtype=dtype).element_size()
        return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=random).view(dtype)

    made = [bits(1 + 37 * i % 211, torch.bfloat16)[i % 5 :] for i in range(300)]
    made += [bits(i, torch.float64) for i in (0, 1, 2, 5000, 300_001)]
    made += [bits(100_003, torch.float16)[3:], bits(7, torch.complex64)]
    return [leaf.requires_grad_() for leaf in made]


@pytest.mark.parametrize("device", DEVICES)
def test_leaves_keep_every_bit(device: str) -> None:
    differentiable = leaves(1)
    others = [leaf.detach() for leaf in leaves(2)]
    value = {"gradients": differentiable, "none": None, "others": others}
    sent, got = cross(on(device, value))
    assert {t.device.type for t in sent} == {device}
    expected, _ = cross(value)
    assert torch.equal(sent[0].cpu().view(torch.uint8), expected[0].view(torch.uint8))
    assert same(on("cpu", got), value)
    sent[0].backward(sent[0].detach())


@pytest.mark.parametrize("device", DEVICES)
def test_misaligned_leaves_keep_every_bit(device: str) -> None:
    """Views into one storage, so that they begin anywhere."""
    base = torch.arange(60_000, dtype=torch.int16).view(torch.bfloat16).to(device)
    base.requires_grad_()
    value = [base[i : i + 50 * i] for i in range(34)]
    sent, got = cross(value)
    for a, b in zip(got, value, strict=True):
        assert torch.equal(a.view(torch.int16), b.detach().view(torch.int16))
    gradient = torch.zeros_like(sent[0])
    sent[0].backward(gradient)
    assert base.grad is not None and not base.grad.any()


@pytest.mark.parametrize("device", DEVICES)
def test_leaves_whose_elements_are_not_in_order(device: str) -> None:
    base = torch.arange(5000.0, device=device).reshape(50, 100)
    turned = torch.complex(base, base + 1).conj()
    odd = torch.arange(15, dtype=torch.uint8, device=device).reshape(3, 5)
    value = [base.t(), base[:, 3:7], base[0].expand(7, 100), turned, turned.imag, base[1:]]
    value = [leaf.detach().requires_grad_() for leaf in value]
    _, got = cross([*value, odd.t(), odd[:, 1:]])
    assert same(on("cpu", got), on("cpu", [*value, odd.t(), odd[:, 1:]]))


@pytest.mark.parametrize("device", DEVICES)
def test_unused_leaves(device: str) -> None:
    value = [torch.ones(5000, device=device, requires_grad=True) for _ in range(4)]
    sender, receiver = boundary()
    sent = sender.send(value, None)
    arrived = tuple(t.detach().clone() for t in sent)
    arrived[0].requires_grad_()
    got, _ = receiver.receive(arrived)
    (got[1] * 3).sum().backward()
    sent[0].backward(arrived[0].grad)
    found = [None if leaf.grad is None else leaf.grad.unique().tolist() for leaf in value]
    unused = None if device == "cpu" else [0.0]  # the tail is read where nothing waits for it
    assert found == [unused, [3.0], unused, unused]


@pytest.mark.parametrize("device", DEVICES)
def test_frames_of_every_size(device: str) -> None:
    """Up to 3.5 KB from a launch's parameters, larger ones through pinned memory."""
    for length in (0, 3000, 3400, 3584, 4000, 70_000):
        value = {"text": "x" * length, "t": torch.ones(2, device=device)}
        for _ in range(3):
            assert same(on("cpu", unpack(pack(value))), on("cpu", value))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 100, 3584, 9000, 100_000])
def test_verdict_is_the_devices(device: str, size: int) -> None:
    expected = torch.randint(0, 256, (size,), dtype=torch.uint8).to(device)
    mismatch_flag = torch.zeros(1, dtype=torch.int32, device=device)
    received = expected.clone()
    _C.compare(received, expected, mismatch_flag)
    assert mismatch_flag.item() == 0
    received[size // 2] ^= 1
    _C.compare(received, expected, mismatch_flag)
    assert mismatch_flag.item() == 1


@pytest.mark.parametrize("device", DEVICES)
def test_device_needs_no_number(device: str) -> None:
    codec = Codec()
    value = {"t": torch.ones(2, device=device), "n": 1}
    frames = [codec.pack(value, device)[-1] for _ in range(4)]
    assert frames[3] is frames[2] and codec.stats.hits >= 2


@pytest.mark.parametrize("pair", [pytest.param(("cuda:0", "cuda:1"), marks=needs_gpus(2))])
def test_leaves_from_another_gpu(pair: tuple[str, str]) -> None:
    here, there = pair
    value = [torch.arange(5000.0, device=there), torch.ones(3, device=there), torch.ones(2)]
    sender, receiver = boundary()
    sent = sender.send(value, None, here)
    assert {str(t.device) for t in sent} == {here}
    got, _ = receiver.receive(tuple(t.clone() for t in sent))
    assert same(on("cpu", got), on("cpu", value))
