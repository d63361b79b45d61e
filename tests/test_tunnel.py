"""The codec whose tensors an engine can send: sizes agreed on, dynamic sizes, shared memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipecodec import Codec, FrameCapacityError, FrameError, StructureChangedError

LARGE = 1025
"""So many float32 elements do not travel in the frame."""


def boundary(**options: Any) -> Codec:
    return Codec(transport="tunnel", name="boundary 1→2", **options)


def hidden(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, requires_grad=dtype.is_floating_point)


@pytest.mark.parametrize(
    ("first", "later", "change"),
    [
        (
            {"h": hidden(4, 8), "small": torch.ones(3)},
            {"h": hidden(4, 9), "small": torch.ones(4)},
            r"outputs\['h'\] is float32 \[4, 9\] now and was float32 \[4, 8\] in the first",
        ),
        (
            {"h": hidden(4, 8), "m": torch.ones(LARGE)},
            {"h": hidden(4, 8), "m": torch.ones(LARGE, dtype=torch.float64)},
            r"outputs\['m'\] is float64 \[1025\] now and was float32 \[1025\] in the first",
        ),
        (
            {"h": hidden(4, 8), "m": None},
            {"h": hidden(4, 8), "m": torch.ones(LARGE)},
            r"outputs\['m'\], float32 \[1025\], did not cross in the first micro-batch",
        ),
        (
            {"h": hidden(4, 8), "m": torch.ones(LARGE)},
            {"h": hidden(4, 8), "m": torch.ones(3)},
            r"outputs\['m'\], float32 \[1025\], no longer crosses",
        ),
        (
            [hidden(4, 8), hidden(2)],
            [hidden(4, 8), hidden(2).detach()],
            None,  # differentiable or not was settled by the structure: nothing changes its size
        ),
    ],
)
def test_names_the_leaf_that_changed(first: Any, later: Any, change: str | None) -> None:
    codec = boundary()
    codec.pack(first)
    if change is None:
        codec.pack(later)
        return
    with pytest.raises(StructureChangedError, match="^boundary 1→2: " + change) as caught:
        codec.pack(later)
    assert "dynamic_shape=True on all ranks" in str(caught.value)
    codec.pack(first)
    codec.reset()
    codec.pack(later)


def test_frame_that_outgrows_its_capacity_names_the_settings() -> None:
    codec = boundary()
    codec.pack([hidden(2), "short"])
    with pytest.raises(FrameCapacityError, match=r"agreed on 512; .*=1280 .*dynamic_shape=True"):
        codec.pack([hidden(2), "long" * 250])


def test_dynamic_shape_lets_sizes_and_structures_change() -> None:
    sender, receiver = boundary(dynamic_shape=True), boundary(dynamic_shape=True)
    values: list[Any] = [
        {"h": hidden(4, 8), "cache": None},
        {"h": hidden(4, 9), "cache": [torch.ones(LARGE)]},
        {"h": hidden(2, 1), "cache": [torch.ones(LARGE), torch.ones(3)]},
        {"h": hidden(4, 8), "text": "text" * 400},
        {"h": hidden(4, 8), "cache": None},
    ]
    frames = []
    for value in values:
        sent = sender.pack(value)
        frames.append(sent[-1].numel())
        got = receiver.unpack(sent)
        assert got.keys() == value.keys() and got.get("text") == value.get("text")
        for name in ("h", "cache"):
            torch.testing.assert_close(got.get(name), value.get(name), rtol=0, atol=0)
    assert frames[0] == frames[-1] == 256 < frames[3]


@pytest.mark.parametrize("count", [64, 65, 100])
def test_number_of_tensors_stays_what_an_engine_can_describe(count: int) -> None:
    value = [torch.full((LARGE,), i) for i in range(count)]
    sent = boundary().pack(value)
    assert len(sent) == 66
    for got, expected in zip(boundary().unpack(sent), value, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("value", "on_sender", "on_receiver"),
    [
        (hidden(4, 8), True, True),
        (hidden(5), False, False),  # the tunnel is padded to 16 bytes
        (hidden(4, 8).t(), False, True),
        (hidden(4, 8, dtype=torch.float64), False, False),
        ([hidden(4, 8), hidden(4)], False, False),
    ],
)
def test_lone_float32_leaf_is_not_copied(value: Any, on_sender: bool, on_receiver: bool) -> None:
    leaf = value[0] if isinstance(value, list) else value
    sent = boundary().pack(value)
    assert (sent[0].data_ptr() == leaf.data_ptr()) is on_sender
    for reuse in (True, False):
        arrived = sent[0].detach().clone().requires_grad_()
        got, _ = boundary().receive((arrived, *sent[1:]), reuse)
        got = got[0] if isinstance(value, list) else got
        assert torch.equal(got, leaf)
        assert (got.data_ptr() == arrived.data_ptr()) is (on_receiver and reuse)
        assert not got._is_view()
    got.mul_(2.0)
    got.sum().backward()
    sent[0].backward(arrived.grad)
    if leaf.is_leaf:
        assert torch.equal(leaf.grad, torch.full_like(leaf, 2.0))
        assert leaf.grad.data_ptr() != arrived.grad.data_ptr()


def test_large_leaf_is_copied_only_if_asked_to() -> None:
    sent = boundary().pack(torch.ones(LARGE))
    for reuse in (True, False):
        got, _ = boundary().receive(sent, reuse)
        assert (got.data_ptr() == sent[1].data_ptr()) is reuse


def test_tunnel_is_used_once() -> None:
    """Two uses would add the bits of two gradients."""
    sent = boundary().pack(hidden(4, 8))
    receiver = boundary()
    receiver.unpack(tuple(t.clone() for t in sent))
    arrived = sent[0].detach().clone().requires_grad_()
    with torch.no_grad():  # no gradients, so as often as you like
        receiver.unpack((arrived, *sent[1:]))
    receiver.unpack((arrived, *sent[1:]))
    with pytest.raises(FrameError, match="unpacked before.*unpack once, or a clone"):
        receiver.unpack((arrived, *sent[1:]))
    receiver.unpack((arrived.clone(), *sent[1:]))


def test_tunnel_that_is_too_short_names_the_leaf() -> None:
    sent = boundary().pack({"a": hidden(4), "b": [hidden(3, 5), hidden(2)]})
    message = (
        r"boundary 1→2: the frame says that outputs\['b'\]\[0\], float32 \[3, 5\], ends at byte 80 "
        r"of the tunnel, tensors\[0\], which has only 40"
    )
    with pytest.raises(FrameError, match=message):
        boundary().unpack((sent[0][:10].detach(), *sent[1:]))
