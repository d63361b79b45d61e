"""A codec's caches change the cost of a call, never its result."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecodec import Codec, FrameError, UnsupportedTypeError, pack, unpack
from tests.corpus import same, structures
from tests.strategies import values


def similar(value: Any, choose: Callable[[int], int], seen: list[torch.Tensor]) -> Any:
    """Exchange some parts of the value; ``choose(n)`` gives a number below n."""
    kind = choose(8)
    if isinstance(value, torch.Tensor):
        seen.append(value)
        others = [
            value,
            value.detach().clone(),
            seen[choose(len(seen))],
            value.detach().reshape(-1),
        ]
        return [*others, value.detach().clone().requires_grad_(value.is_floating_point())][
            min(kind, 4)
        ]
    if type(value) is tuple or type(value) is list:
        items = [similar(item, choose, seen) for item in value]
        if kind == 7:
            return (*items, None)
        return type(value)(items) if kind else tuple(items)
    if type(value) is dict:
        items = [(key, similar(item, choose, seen)) for key, item in value.items()]
        return dict(reversed(items) if kind == 7 else items)
    if type(value) is int or type(value) is float:
        return [value, value + 1, -value, bool(value), float("nan"), 2**64, value, value][kind]
    if type(value) is str:
        return value + "x" if kind == 7 else "".join(list(value))
    return value


@settings(max_examples=600, deadline=None)
@given(st.lists(values, min_size=1, max_size=3), st.data())
def test_frames_do_not_depend_on_what_came_before(starts: list[Any], data: st.DataObject) -> None:
    sender, receiver = Codec(capacity=1 << 16), Codec()
    recent = [*starts]
    for _ in range(8):
        value = recent[data.draw(st.integers(0, len(recent) - 1))]
        value = similar(value, lambda n: data.draw(st.integers(0, n - 1)), [])
        recent.append(value)
        *slots, frame = sender.pack(value)
        *expected_slots, expected = pack(value)
        assert frame.numpy().tobytes().rstrip(b"\0") == expected.numpy().tobytes().rstrip(b"\0")
        assert all(a is b for a, b in zip(slots, expected_slots, strict=True))
        assert same(receiver.unpack((*slots, frame)), value)


def tensors(n: int) -> list[torch.Tensor]:
    return [torch.zeros(2, 3) for _ in range(n)]


@pytest.mark.parametrize("name", structures())
def test_an_unchanged_frame_is_the_same_tensor(name: str) -> None:
    codec = Codec()
    first = codec.pack(structures()[name])[-1]
    for _ in range(3):
        assert codec.pack(structures()[name])[-1] is first
    assert codec.stats.hits == 3


@pytest.mark.parametrize("count", [2, 8, 9, 40, 1000])
def test_a_tensor_that_occurs_twice_is_seen(count: int) -> None:
    codec = Codec()
    for _ in range(3):
        codec.pack(tensors(count))
    for at in (0, count // 2, count - 1):
        value = tensors(count)
        value[at] = value[at - 1]
        packed = codec.pack(value)
        assert len(packed) == count
        got = codec.unpack(packed)
        assert got[at] is got[at - 1]


def test_a_tensor_that_no_longer_occurs_twice_is_seen() -> None:
    codec = Codec()
    for _ in range(3):
        a, b, c = tensors(3)
        codec.pack((a, b, a))
    for value in ((a, b, c), (a, b, b), (a, a, a)):
        assert same(codec.unpack(codec.pack(value)), value)
        assert len(codec.pack(value)) == len({id(tensor) for tensor in value}) + 1


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(3, 2),
        torch.zeros(2, 3, 1),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3, requires_grad=True),
        (torch.zeros(2, 3, requires_grad=True) * 2),
        torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged),
        None,
        [torch.zeros(2, 3)],
    ],
)
def test_another_leaf_is_seen(other: Any) -> None:
    codec = Codec()
    for _ in range(3):
        codec.pack([*tensors(2), "x"])
    value = [torch.zeros(2, 3), other, "x"]
    assert torch.equal(codec.pack(value)[-1], pack(value)[-1])
    parameter = torch.nn.Parameter(torch.zeros(2, 3), requires_grad=False)
    assert codec.pack([parameter, torch.zeros(2, 3), "x"])[0] is parameter


def test_the_frames_used_last_are_kept() -> None:
    codec = Codec(capacity=4096)
    kinds = [[1] * n for n in range(1, 9)]
    first = [codec.pack(kind)[-1] for kind in kinds]
    assert all(codec.pack(kind)[-1] is frame for kind, frame in zip(kinds, first, strict=True))
    codec.pack([1] * 9)  # the ninth: the one that was used the longest time ago goes
    assert codec.pack(kinds[1])[-1] is first[1]
    assert codec.pack(kinds[0])[-1] is not first[0]


def test_a_changed_number_is_a_new_frame_and_the_old_one_stays() -> None:
    codec = Codec()
    value = [torch.zeros(1), 1, 2.5]
    frames = []
    for step in range(4):
        value[1] = step
        frames.append(codec.pack(value)[-1])
    assert len({frame.data_ptr() for frame in frames}) == 4
    for step, frame in enumerate(frames):
        assert codec.unpack((value[0], frame))[1:] == [step, 2.5]


def test_a_frame_that_was_written_to_is_made_anew() -> None:
    codec = Codec()
    for step in range(4):
        frame = codec.pack(["x", 1])[-1]
        assert unpack((frame,)) == ["x", 1]
        frame[step * 20] += 1
    assert codec.stats.hits == 0


def test_another_device_or_capacity_is_another_frame() -> None:
    codec = Codec()
    for _ in range(3):
        first = codec.pack([1])[-1]
    assert codec.pack([1], device="meta")[-1].is_meta
    assert codec.pack([1])[-1] is not first
    codec.reset()
    assert codec.pack(["x" * 2000])[-1].numel() > 2000
    assert codec.pack([1])[-1].numel() == codec.pack(["x" * 2000])[-1].numel()


def test_a_changed_frame_is_noticed_right_after_its_original() -> None:
    codec = Codec()
    *slots, frame = pack([torch.zeros(2), {"a": 5}])
    for at in (48, 60, frame.numel() - 1):
        codec.unpack((*slots, frame))
        wrong = frame.clone()
        wrong[at] += 1
        with pytest.raises(FrameError):
            codec.unpack((*slots, wrong))
        assert codec.unpack((*slots, frame))[1] == {"a": 5}


def test_an_error_leaves_the_memory_right() -> None:
    codec = Codec()
    for _ in range(3):
        codec.pack([1, torch.zeros(1)])
    with pytest.raises(UnsupportedTypeError):
        codec.pack([1, len])
    with pytest.raises(UnsupportedTypeError):
        codec.pack([2, "\ud800"])
    value = [3, torch.zeros(1)]
    assert same(codec.unpack(codec.pack(value)), value)


class Meddler:
    """Uses the same codec whenever it is collected as garbage."""

    def __init__(self, use: Callable[[], None]) -> None:
        self.use = use
        self.cycle = self

    def __del__(self) -> None:
        self.use()


@pytest.mark.parametrize("count", [1, 24])  # the tuple of so many is allocated anew
@pytest.mark.parametrize("action", ["the same structure", "other structures", "forget"])
def test_garbage_collection_in_the_middle_of_a_call(action: str, count: int) -> None:
    """Every allocation of a call may collect; which one does depends on the threshold."""
    codec = Codec(capacity=4096)
    many = tensors(count)
    calls = 0

    def use() -> None:
        nonlocal calls
        calls += 1
        if action == "the same structure":
            assert number(codec.pack([5, *many])) == 5
        elif action == "other structures":
            for n in range(12):
                codec.pack([n] * (n + 1))
        else:
            codec.reset()

    def number(packed: tuple[torch.Tensor, ...]) -> int:
        return int(unpack(packed)[0])

    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # objects made so far would be walked again and again
    try:
        for step in range(800):
            gc.disable()
            gc.collect()
            for _ in range(3):
                codec.pack([4, *many])
            Meddler(use)
            now = 5 + step % 3
            assert number(codec.pack([6, *many])) == 6
            gc.set_threshold(1 + step % 80)
            gc.enable()
            packed = codec.pack([now, *many])
            gc.disable()
            assert number(packed) == now
            assert number(codec.pack([5, *many])) == 5
    finally:
        gc.set_threshold(*before)
        gc.enable()
        gc.unfreeze()
    assert calls > 500
