"""The codec whose tensors an engine can send: sizes agreed on, dynamic sizes, shared memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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


def elements(codec: Codec, value: Any, gradients: bool) -> int:
    """Return how many float32 elements of the tunnel ``value`` takes, padding included."""
    with torch.set_grad_enabled(gradients):
        return codec.pack(value)[0].numel()


VALUE = {"h": hidden(4), "mask": torch.ones(8), "n": "text"}
OTHER = {**VALUE, "n": "other"}


def test_without_gradients_what_could_be_differentiable_is_until_reset() -> None:
    codec = boundary()
    for value, gradients in ((VALUE, False), (VALUE, True), (OTHER, True), (OTHER, False)):
        assert elements(codec, value, gradients) == 12
    codec.reset()
    for value, gradients in ((VALUE, True), (OTHER, False), (OTHER, True)):
        assert elements(codec, value, gradients) == 4


def test_evaluation_sends_nothing_through_the_tunnel_and_settles_nothing() -> None:
    codec = boundary()
    codec.evaluating = True
    with torch.no_grad():
        sent = codec.pack({"h": hidden(LARGE)})
    assert [t.nbytes for t in sent[:2]] == [16, 4 * LARGE]  # a tunnel is never empty
    codec.evaluating = False
    codec.reset()
    assert elements(codec, VALUE, True) == 4
    assert elements(codec, OTHER, False) == 4


@pytest.mark.parametrize("differentiable", ["auto", "by-dtype", ["outputs['h']"]])
def test_dynamic_sizes_settle_nothing(differentiable: Any) -> None:
    codec = boundary(dynamic_shape=True, differentiable=differentiable)
    attached, detached = ({"h": h} for h in (hidden(LARGE), torch.ones(LARGE)))
    auto = differentiable == "auto"
    for value, gradients, through in (
        (attached, False, not auto),
        (detached, True, not auto),
        (attached, True, True),
        (detached, True, not auto),
    ):
        assert elements(codec, value, gradients) == (LARGE + 3 if through else 4)


def test_leaf_that_requires_a_gradient_at_some_times_only_is_named() -> None:
    codec = boundary()
    codec.pack([torch.ones(4), "a"])
    with pytest.raises(StructureChangedError) as caught:
        codec.pack([hidden(4), "b"])
    assert str(caught.value) == (
        "boundary 1→2: outputs[0] requires a gradient now, but did not when it was first sent; "
        "after unfreezing parameters call reset() on this boundary's codecs on all ranks "
        "(engine.reset_activation_shape() does), and if it requires one at some times only, set "
        'differentiable="by-dtype" or dynamic_shape=True'
    )


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


def peak_of(call: Callable[[], Any]) -> float:
    """Return how much the process's memory grew at most during ``call``, in MiB."""
    result = call()  # what is allocated once is not counted
    del result
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak
    before = status("VmRSS")
    result = call()
    grown = status("VmHWM") - before
    del result
    return grown / 1024


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


@pytest.mark.parametrize(("count", "copies"), [(1, 0), (2, 1)])
def test_each_side_adds_at_most_one_copy_of_the_differentiable_leaves(
    count: int, copies: int
) -> None:
    each = 32  # MiB
    leaves = [hidden(each, 2**18) for _ in range(count)]
    mask = torch.ones(each * 2**20, dtype=torch.uint8)  # large and not differentiable: no copy
    codecs = boundary(), boundary()
    sent = codecs[0].pack([*leaves, mask])
    arrived = sent[0].detach()
    for call in (
        lambda: codecs[0].pack([*leaves, mask]),
        lambda: codecs[1].unpack((arrived.detach().requires_grad_(), *sent[1:])),
    ):
        assert peak_of(call) == pytest.approx(copies * count * each, abs=4)
