"""The codec whose tensors an engine can send: sizes agreed on, dynamic sizes, shared memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from pipecodec import Codec, FrameCapacityError, FrameError, StructureChangedError

from .simdev import load

LARGE = 1025
"""A number of float32 elements that is too large to travel in the frame."""

TAIL = 4
"""Elements behind the leaves of a tunnel, but for a lone one of a multiple of 16 bytes."""


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
    where = "pipecodec.deepspeed.initialize, pipecodec.pipelining.build_stage or pipecodec.Codec"
    assert str(caught.value).endswith(f"set dynamic_shape=True on all ranks, in {where}")
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
        assert elements(codec, value, gradients) == 12 + TAIL
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
        assert elements(codec, value, gradients) == (LARGE + 3 + TAIL if through else 4)


def test_leaf_that_requires_a_gradient_at_some_times_only_is_named() -> None:
    codec = boundary()
    codec.pack([torch.ones(4), "a"])
    with pytest.raises(StructureChangedError) as caught:
        codec.pack([hidden(4), "b"])
    assert str(caught.value) == (
        "boundary 1→2: outputs[0] requires a gradient now, but did not when it was first sent; "
        "after unfreezing parameters call reset() on this boundary's codecs on all ranks "
        "(DeepSpeed's engine.reset_activation_shape() and pipecodec.pipelining.reset(stages) do), "
        'and if it requires one at some times only, set differentiable="by-dtype" or '
        "dynamic_shape=True on all ranks, in pipecodec.deepspeed.initialize, "
        "pipecodec.pipelining.build_stage or pipecodec.Codec"
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


def bits(dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return elements [4, 8] of any bits, NaNs of all kinds among them."""
    random = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (32 * dtype.itemsize,), dtype=torch.uint8, generator=random)
    return raw.view(dtype).view(4, 8)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    raw = [t.detach().resolve_conj().contiguous().view(torch.uint8) for t in (one, other)]
    return one.dtype == other.dtype and torch.equal(*raw)


def unaligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same elements two bytes behind the start of a memory."""
    raw = bytearray(2) + tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return torch.frombuffer(raw, dtype=tensor.dtype, offset=2).view(tensor.shape)


BF16, FP64, COMPLEX = torch.bfloat16, torch.float64, torch.complex64


@pytest.mark.parametrize(
    ("dtype", "cut", "on_sender", "on_receiver"),
    [
        *((d, lambda t: t, True, True) for d in (torch.float32, BF16, FP64, COMPLEX)),
        *((d, lambda t: t[1:3], True, True) for d in (torch.float32, BF16, FP64, COMPLEX)),
        *((d, lambda t: t.t(), True, True) for d in (torch.float32, BF16, FP64, COMPLEX)),
        *((d, lambda t: t.view(2, 2, 8).permute(2, 0, 1), True, True) for d in (FP64, COMPLEX)),
        # Not one after the other, or not as float32 can be read, so copied on the way in.
        *((d, lambda t: t[:, ::2], False, True) for d in (torch.float32, BF16, FP64, COMPLEX)),
        (BF16, lambda t: t.flatten()[1:9], False, True),
        (BF16, unaligned, False, True),
        (COMPLEX, lambda t: t.conj(), False, True),
        # The tunnel is padded to 16 bytes.
        *((d, lambda t: t[0, :3], False, False) for d in (torch.float32, BF16, FP64, COMPLEX)),
    ],
)
@pytest.mark.parametrize("reuse", [True, False])
def test_lone_leaf_is_not_copied(
    dtype: torch.dtype,
    cut: Callable[[torch.Tensor], torch.Tensor],
    on_sender: bool,
    on_receiver: bool,
    reuse: bool,
) -> None:
    leaf = cut(bits(dtype, 1)).requires_grad_()
    sent = boundary().pack(leaf)
    assert sent[0].dtype == torch.float32 and sent[0].data_ptr() % 4 == 0
    assert (sent[0].data_ptr() == leaf.data_ptr()) is on_sender
    arrived = sent[0].detach().clone().requires_grad_()
    got, _ = boundary().receive((arrived, *sent[1:]), reuse)
    assert same_bits(got, leaf) and got.shape == leaf.shape
    assert got.stride() == torch.empty_like(leaf).stride()  # which keeps strides but for gaps
    assert (got.data_ptr() == arrived.data_ptr()) is (on_receiver and reuse)
    assert not got._is_view()
    got.zero_()  # as a stage may
    got, _ = boundary().receive((arrived.detach().requires_grad_(), *sent[1:]), reuse)
    assert torch.count_nonzero(got) == 0 if on_receiver and reuse else same_bits(got, leaf)


@pytest.mark.parametrize("dtype", [torch.float32, BF16, FP64, COMPLEX])
@pytest.mark.parametrize("cut", [lambda t: t, lambda t: t.t(), lambda t: t.conj(), unaligned])
def test_gradient_of_a_lone_leaf_is_handed_on_to_the_bit(
    dtype: torch.dtype, cut: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    gradient = cut(bits(dtype, 2))
    leaf = torch.zeros(gradient.shape, dtype=dtype, requires_grad=True)
    sent = boundary().pack(leaf)
    arrived = sent[0].detach().clone().requires_grad_()
    boundary().unpack((arrived, *sent[1:])).backward(gradient)
    back = arrived.grad.clone()
    sent[0].backward(back)
    back.zero_()  # the engine's buffer, which the next gradient overwrites
    assert same_bits(leaf.grad, gradient)


def test_tunnel_that_no_double_can_be_read_from_is_copied() -> None:
    leaf = bits(FP64, 1).requires_grad_()
    sent = boundary().pack(leaf)
    buffer = torch.zeros(sent[0].numel() + 1)
    buffer[1:] = sent[0].detach()
    for arrived in (buffer[1:], unaligned(buffer[1:])):
        got = boundary().unpack((arrived.requires_grad_(), *sent[1:]))
        assert same_bits(got, leaf) and got.data_ptr() % 8 == 0 and not got._is_view()


def test_large_leaf_is_copied_only_if_asked_to() -> None:
    sent = boundary().pack(torch.ones(LARGE))
    for reuse in (True, False):
        got, _ = boundary().receive(sent, reuse)
        assert (got.data_ptr() == sent[1].data_ptr()) is reuse


def test_tunnel_is_used_once() -> None:
    """Autograd would add the bits of two gradients."""
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


def matrix(*, grad: bool = True, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(40, 40).to(dtype).requires_grad_(grad and dtype.is_floating_point)


SAME = matrix()


def like_before(**other: Any) -> list[Any]:
    """Return two leaves with gradients, one with a slot, two in the frame, a number and a text.

    Those named in ``other`` are as it says.
    """
    given = {"a": matrix(), "b": matrix(), "slot": matrix(dtype=torch.int64), "n": 1, "s": "text"}
    within = {"mask": torch.ones(7, dtype=torch.bool), "ids": torch.arange(6).reshape(2, 3)}
    return list({**given, **within, **other}.values())


AGAIN: dict[str, Callable[[], list[Any]]] = {
    "as before": like_before,
    "another number": lambda: like_before(n=2),
    "another text": lambda: like_before(s="other"),
    "a tuple": lambda: like_before(n=(1,)),
    "transposed": lambda: like_before(a=matrix().t()),
    "expanded": lambda: like_before(b=matrix()[:, :1].expand(40, 40)),
    "sliced": lambda: like_before(b=torch.randn(40, 80)[:, ::2]),
    "slot transposed": lambda: like_before(slot=matrix(dtype=torch.int64).t()),
    "negative": lambda: like_before(a=matrix()._neg_view()),
    "detached": lambda: like_before(a=matrix(grad=False)),
    "a parameter": lambda: like_before(a=torch.nn.Parameter(matrix())),
    "another dtype": lambda: like_before(slot=matrix()),
    "one twice": lambda: like_before(a=SAME, b=SAME),
    "another mask": lambda: like_before(mask=torch.rand(7) < 0.5),
    "another mask and number": lambda: like_before(mask=torch.rand(7) < 0.5, n=3),
    "ids transposed": lambda: like_before(ids=torch.arange(6).reshape(3, 2).t()),
    "ids of another dtype": lambda: like_before(ids=torch.arange(6, dtype=torch.int32)),
    "more ids": lambda: like_before(ids=torch.arange(8).reshape(2, 4)),
}


UNMADE_BY_A_COPY = ("negative", "a parameter", "one twice")


@pytest.mark.parametrize("device", ["cpu", pytest.param("sim", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_value_met_again_is_sent_as_if_it_was_the_first(gradients: bool, device: str) -> None:
    names = list(AGAIN)
    if device == "sim":
        load()
        names = [name for name in names if name not in UNMADE_BY_A_COPY]
    options: dict[str, Any] = {"differentiable": "by-dtype", "capacity": 1024}
    warm = boundary(**options)
    chosen = random.Random(7)
    with torch.set_grad_enabled(gradients):
        for _ in range(3):
            warm.pack(tree_map_only(torch.Tensor, lambda t: t.to(device), like_before()))
        for _ in range(200):
            name = chosen.choice(names)
            value = tree_map_only(torch.Tensor, lambda t: t.to(device), AGAIN[name]())
            if name in ("another dtype", "one twice"):
                with pytest.raises(StructureChangedError):
                    warm.pack(value)
                continue
            sent, expected = warm.pack(value), boundary(**options).pack(value)
            assert len(sent) == len(expected)
            for one, other in zip(sent, expected, strict=True):
                assert same_bits(one.cpu(), other.cpu()) and one.device.type == device
                assert one.requires_grad == other.requires_grad
    if device == "cpu":  # elsewhere the device writes the mask into each frame
        hits = warm.stats.hits
        warm.pack(like_before())
        warm.pack(like_before())
        assert warm.stats.hits > hits


def test_what_was_remembered_of_a_value_ends_with_a_reset() -> None:
    codec = boundary()
    value = {"h": hidden(LARGE), "m": torch.ones(LARGE)}
    for _ in range(4):
        assert len(codec.pack(value)) == 3
    codec.reset()
    assert len(codec.pack({**value, "m": hidden(LARGE)})) == 2
    with torch.no_grad():
        assert len(codec.pack(value)) == 2
    codec.evaluating = True
    codec.reset()
    with torch.no_grad():
        assert len(codec.pack(value)) == 4
