"""Memory of received tensors: used again when it is free, never while something refers to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from pipecodec.channel.memory import LEAST_KEPT, MOST_KEPT, Memory

SIZE = LEAST_KEPT


def test_memory_is_used_again_once_it_is_free() -> None:
    memory = Memory()
    first, second = memory.get(SIZE), memory.get(SIZE)
    places = {first.data_ptr(), second.data_ptr()}
    assert len(places) == 2
    del first, second
    first, second, third = (memory.get(SIZE) for _ in range(3))
    assert {first.data_ptr(), second.data_ptr()} == places
    assert third.data_ptr() not in places
    with torch.device("meta"):
        for size in (5, SIZE + 8):
            assert len(memory.get(size)) == size and memory.get(size).device.type == "cpu"


@pytest.mark.parametrize(
    "kept",
    [
        lambda tensor: tensor,
        lambda tensor: tensor[5:9],
        lambda tensor: tensor.view(torch.float32),
        lambda tensor: tensor.numpy()[3:],
        lambda tensor: memoryview(tensor.numpy()),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: torch.nn.Parameter(tensor.view(torch.float32)),
        lambda tensor: torch.utils.dlpack.to_dlpack(tensor),
        lambda tensor: torch.frombuffer(tensor.numpy(), dtype=torch.uint8),
        lambda tensor: torch.nn.Parameter(tensor.view(torch.float32)[:4]) * torch.ones(4),
    ],
    ids=str,
)
def test_memory_that_something_refers_to_is_left_alone(kept: Callable[[torch.Tensor], Any]) -> None:
    memory = Memory()
    tensor = memory.get(SIZE)
    place, held = tensor.data_ptr(), kept(tensor)
    del tensor
    assert memory.get(SIZE).data_ptr() != place
    del held


def test_memory_that_the_caller_changed_is_given_to_nobody() -> None:
    memory = Memory()
    shared, emptied, larger, referenced = (memory.get(SIZE) for _ in range(4))
    shared.share_memory_()
    emptied.untyped_storage().resize_(0)
    larger.resize_(2 * SIZE)
    reference = StorageWeakRef(referenced.untyped_storage())
    taken = {shared.data_ptr(), referenced.data_ptr()}
    del shared, emptied, larger, referenced
    later = [memory.get(SIZE) for _ in range(4)]
    for tensor in later:
        assert len(tensor) == SIZE <= tensor.untyped_storage().nbytes()
        assert not tensor.is_shared() and tensor.data_ptr() not in taken
    del reference


def test_what_is_kept_has_a_bound() -> None:
    memory = Memory()
    for size in (0, 1, SIZE - 1, MOST_KEPT + 1):
        assert len(memory.get(size)) == size and not memory._kept
    for number in range(2 * MOST_KEPT // (8 * SIZE)):
        memory.get(8 * SIZE + number)
    assert MOST_KEPT - 9 * SIZE < memory._bytes <= MOST_KEPT
    assert memory._bytes == sum(map(len, memory._kept))
    for number in range(3):
        memory.get(MOST_KEPT - number)
    assert len(memory._kept) == 1
