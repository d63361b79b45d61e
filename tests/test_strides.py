"""Layout is part of the value: how tensors and their gradients lie in memory after a boundary."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipecodec import Codec, StructureChangedError, UnsupportedTypeError, describe, pack, unpack
from pipecodec.describe import leaves

LARGE = 2**12
"""A number of elements that travels in a slot, for every dtype."""


def boundary(**options: Any) -> Codec:
    return Codec(transport="tunnel", **options)


def arrived(tensors: tuple[Tensor, ...], reuse: bool = True) -> Any:
    copies = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
    return boundary().receive(copies, reuse)[0]


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of the elements, in their order and not that of memory."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if tensor.element_size() in integer:
        plain = plain.view(integer[tensor.element_size()])
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.reshape(4, -1).t(),
    "permuted": lambda t: t.reshape(2, 2, -1, 4).permute(2, 0, 3, 1),
    "channels last": lambda t: t.reshape(2, 2, -1, 4).to(memory_format=torch.channels_last),
    "channels last, one channel": lambda t: t.reshape(2, 1, -1, 4).to(
        memory_format=torch.channels_last
    ),
    "channels last, one pixel": lambda t: t.reshape(2, -1, 1, 1).to(
        memory_format=torch.channels_last
    ),
    "channels last, 3-D": lambda t: t.reshape(2, 2, 2, -1, 2).to(
        memory_format=torch.channels_last_3d
    ),
    "expanded": lambda t: t.reshape(-1, 1, 4).expand(-1, 3, 4),
    "expanded, permuted": lambda t: t.reshape(4, -1).t().unsqueeze(1).expand(-1, 5, -1),
    "expanded from one": lambda t: t[0].expand(3, LARGE),
    "expanded of one": lambda t: t.reshape(1, -1).expand(1, -1),
    "odd stride of one": lambda t: t.as_strided((1, t.numel()), (3, 1)),
    "64 dimensions": lambda t: t.reshape(4, -1)[(...,) + (None,) * 62].transpose(0, 1),
}


def all_kinds(count: int) -> dict[str, Tensor]:
    made = torch.arange(count, dtype=torch.float32)
    return {name: change(made.clone()) for name, change in LAYOUTS.items()}


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("count", [16, LARGE])
@pytest.mark.parametrize("tunnel", [False, True])
def test_strides_arrive_by_every_route(count: int, tunnel: bool, reuse: bool) -> None:
    value = all_kinds(count)
    if tunnel:
        value = {name: change(t.requires_grad_()) for name, (change, t) in _same(value).items()}
    sent = boundary().pack(value)
    wanted = "tunnel" if tunnel else "frame" if count == 16 else "raw slot"
    routes = {leaf.path: leaf.route for leaf in leaves(sent)}
    assert routes.pop("outputs['expanded from one']") == ("tunnel" if tunnel else "frame")
    assert set(routes.values()) == {wanted}
    got = arrived(sent, reuse)
    for name, tensor in value.items():
        assert got[name].stride() == tensor.stride() and got[name].shape == tensor.shape, name
        assert bits(got[name]) == bits(tensor), name
        assert not got[name]._is_view(), name
        assert got[name].is_contiguous() is tensor.is_contiguous(), name
        if tensor.dim() == 4:
            formats = (torch.channels_last, torch.contiguous_format)
            for format in formats:
                same = [t.is_contiguous(memory_format=format) for t in (got[name], tensor)]
                assert same[0] is same[1], name


def _same(value: dict[str, Tensor]) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Each with its base, which an expansion can be made of after it requires a gradient."""
    base = torch.arange(16 if value["contiguous"].numel() == 16 else LARGE, dtype=torch.float32)
    return {name: (LAYOUTS[name], base.clone()) for name in value}


DTYPES = """uint8 int16 float16 bfloat16 float64 complex32 complex64 complex128 bool uint16 uint64
float8_e4m3fn float8_e8m0fnu bits8 bits16 int4 uint1 float4_e2m1fn_x2""".split()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_strides(dtype: str) -> None:
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    raw = torch.randint(0, 2, (16 * LARGE,), dtype=torch.uint8)
    for count in (16, LARGE):
        base = raw.view(getattr(torch, dtype))[:count].reshape(-1, 4)
        value = [base.t(), base[:, :1].expand(-1, 4), base[::2].t()]
        got = arrived(boundary().pack(value))
        assert [bits(t) for t in got] == [bits(t) for t in value]
        assert [t.stride() for t in got] == [(1, 4), (1, 0), (1, 4)]


def test_lazy_bits_are_resolved_where_the_elements_lie() -> None:
    made = torch.complex(torch.randn(3, 4), torch.randn(3, 4))
    column = made[:, :1].contiguous().conj().expand(3, 5)
    for value, strides in (
        (made.conj().t(), (1, 4)),
        (made.conj().imag.t(), (1, 4)),
        (column, (1, 0)),
    ):
        (got,) = arrived(boundary().pack([value]))
        assert bits(got) == bits(value)
        assert not got.is_conj() and not got.is_neg()
        assert got.stride() == strides


@pytest.mark.parametrize(
    ("change", "strides"),
    [
        (lambda t: t[:, ::2], (4, 1)),
        (lambda t: t[::2, 2:], (6, 1)),
        (lambda t: t[:, :1], (1, 1)),
        (lambda t: t.t()[::2], (1, 4)),  # gaps are closed in the order of memory
        (lambda t: t[:, ::2].unsqueeze(1).expand(-1, 3, -1), (4, 0, 1)),
        (lambda t: t.flatten().unfold(0, 5, 2), (5, 1)),  # windows that overlap
        (lambda t: t.flatten().unfold(0, 5, 2).t(), (14, 1)),
        (lambda t: t.flatten().unfold(0, 5, 2).unsqueeze(1).expand(-1, 2, -1), (5, 0, 1)),
        (lambda t: torch.as_strided(t, (2, 2), (1, 1)), (2, 1)),
    ],
)
def test_what_has_gaps_or_overlaps_arrives_without(change: Any, strides: Any) -> None:
    value = change(torch.arange(32.0).reshape(4, 8))
    (got,) = arrived(boundary().pack([value]))
    assert torch.equal(got, value) and got.stride() == strides
    attached = change(torch.arange(32.0).reshape(4, 8).requires_grad_())
    (got,) = arrived(boundary().pack([attached]))
    assert torch.equal(got, value) and got.stride() == strides


def test_random_layouts(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(300):
        dims = rng.randrange(6)
        shape = [rng.choice([0, 1, 1, 2, 3, 4]) for _ in range(dims)]
        strides = [rng.choice([0, 1, 1, 2, 3, 5, 8, 12]) for _ in range(dims)]
        last = sum(max(n - 1, 0) * s for n, s in zip(shape, strides, strict=True))
        base = torch.randn(last + 3, requires_grad=rng.random() < 0.5)
        value = torch.as_strided(base, shape, strides, 2)
        if rng.random() < 0.5:
            value = torch.randn(shape).permute(rng.sample(range(dims), dims)).contiguous()
            value = value.permute(rng.sample(range(dims), dims)).requires_grad_(base.requires_grad)
        for reuse in (True, False):
            (got,) = arrived(boundary().pack([value]), reuse)
            assert torch.equal(got, value), (shape, strides)
            for d in range(dims):
                expanded = value.stride(d) == 0 and value.size(d) > 1 and value.numel() > 0
                assert (got.stride(d) == 0 and got.size(d) > 1 and value.numel() > 0) is expanded
            if not torch._debug_has_internal_overlap(value) and value.numel() > 0:
                dense = torch.empty_like(value)
                if dense.stride() == value.stride():
                    assert got.stride() == value.stride()


def test_permuted_and_expanded_take_no_more_bytes() -> None:
    whole = torch.randn(LARGE, 4)
    for change in (lambda t: t, lambda t: t.t()):
        sent = boundary().pack([change(whole)])
        assert sum(t.nbytes for t in sent[:-1]) == whole.nbytes + 16
        assert sent[1].data_ptr() == whole.data_ptr()
    (_, slot, _) = boundary().pack([whole.unsqueeze(0).expand(8, -1, -1)])
    assert slot.data_ptr() == whole.data_ptr() and slot.nbytes == whole.nbytes
    tunnel, frame = boundary().pack([whole[:16].expand(LARGE, 16, 4)])
    assert tunnel.nbytes == 16 and frame.nbytes <= 1024
    tunnel, _ = boundary().pack([whole[:1].requires_grad_().expand(8, 4)])
    assert tunnel.nbytes == 8 * 4 * 4 + 16  # its gradient comes back in as many, with a tail


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it comes": lambda g: g,
    "transposed": lambda g: g.transpose(0, -1).contiguous().transpose(0, -1),
    "expanded": lambda g: g[:1].expand_as(g),
    "with gaps": lambda g: torch.stack([g, g], -1)[..., 0],
    "conjugate": lambda g: g.conj(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("lone", [True, False])
def test_gradients_lie_as_their_leaves(kind: str, lone: bool, dtype: torch.dtype) -> None:
    for change in (lambda t: t, lambda t: t.permute(1, 2, 0), lambda t: t[:1].expand(4, 2, 6)):
        base = torch.randn(4, 2, 6, dtype=dtype)
        leaf = change(base).detach().requires_grad_()
        other = torch.randn(3, requires_grad=True)
        sent = boundary().pack([leaf] if lone else [other, leaf])
        tunnel = sent[0].detach().clone().requires_grad_()
        value = boundary().unpack((tunnel, *sent[1:]))
        gradient = GRADIENTS[kind](torch.randn(leaf.shape, dtype=dtype))
        seen = []
        leaf.register_hook(lambda g, seen=seen: seen.append(g))
        if gradient is None:
            (value[0].sum() * 0).abs().backward()
            gradient = torch.zeros(leaf.shape, dtype=dtype)
        else:
            value[-1].backward(gradient)
        sent[0].backward(tunnel.grad)
        assert bits(seen[0]) == bits(gradient)
        expanded = 0 in leaf.stride()
        assert seen[0].stride() == (torch.empty(leaf.shape).stride() if expanded else leaf.stride())


def test_work_in_place_fails_as_in_one_process_where_elements_are_one() -> None:
    value = torch.ones(1, 4).expand(3, 4)
    for gradients in (True, False):
        given = value.clone()[:1].requires_grad_(gradients).expand(3, 4)
        (got,) = arrived(boundary().pack([given]))
        with torch.no_grad(), pytest.raises(RuntimeError, match="refers to a single memory"):
            got.add_(1)
    (got,) = arrived(boundary().pack([torch.ones(3, 4).t()]))
    assert torch.equal(got.add_(1), torch.full((4, 3), 2.0))


def test_another_layout_is_another_structure_if_the_bytes_are_as_many() -> None:
    codec = boundary()
    for value in (torch.randn(64, 32), torch.randn(32, 64).t(), torch.randn(64, 32)):
        assert arrived(codec.pack([value]))[0].stride() == value.stride()


def test_static_sizes_name_the_strides_that_changed() -> None:
    codec = boundary()
    codec.pack([torch.randn(4096, 4)])
    with pytest.raises(
        StructureChangedError,
        match=r"is float32 \[4096, 4\] with strides \[1, 0\] now and was float32 \[4096, 4\] in",
    ):
        codec.pack([torch.randn(4096, 1).expand(4096, 4)])


def test_a_slot_has_its_own_strides() -> None:
    value = torch.ones(2, 3).t()
    assert unpack(pack([value]))[0] is value
    assert "float32 [3, 2] with strides [1, 3], 24 bytes, slot" in describe([value])
    assert "with strides [1, 3], 24 bytes, frame" in describe(boundary().pack([value]))
    assert "with" not in describe([torch.ones(2, 3)])
    assert leaves(pack([value]))[0].strides == (1, 3)
    assert leaves(pack([value])[-1:])[0].strides is None  # it is not there


def test_a_size_of_more_than_63_bits_is_refused() -> None:
    huge = torch.ones(1).expand(2**31, 2**31)
    for codec in (Codec(), boundary()):
        with pytest.raises(UnsupportedTypeError, match=r"outputs\[0\] has a size in bytes that"):
            codec.pack([huge])
