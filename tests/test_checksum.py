"""The checksum by which copies of a tied weight are compared."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipecodec.engine import tie_check
from pipecodec.engine.tie_check import checksum

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64]


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    size = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=random).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_counts(dtype: torch.dtype) -> None:
    tensor = numbers(dtype, 13)
    seen = {checksum(tensor).item()}
    for byte, bit in itertools.product(range(13 * dtype.itemsize), range(8)):
        other = tensor.clone()
        other.view(torch.uint8)[byte] ^= 1 << bit
        seen.add(checksum(other).item())
    assert len(seen) == 1 + 13 * dtype.itemsize * 8


def test_place_counts() -> None:
    """Rounding errors of two elements may make up for each other; their checksums do not."""
    tensor = torch.zeros(40, dtype=torch.int64)
    seen = {checksum(tensor).item()}
    for one, other in itertools.combinations(range(40), 2):
        changed = tensor.clone()
        changed[one], changed[other] = 1, -1
        seen.add(checksum(changed).item())
    assert len(seen) == 1 + 40 * 39 // 2


def test_chunks_have_places_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tie_check, "_CHUNK", 64)
    tensor = torch.arange(32.0)
    assert checksum(tensor) != checksum(torch.cat([tensor[16:], tensor[:16]]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layout_does_not_count(dtype: torch.dtype) -> None:
    tensor = numbers(dtype, 4, 6)
    expected = checksum(tensor)
    assert checksum(torch.cat([tensor[:1], tensor])[1:]) == expected
    assert checksum(tensor.reshape(4, 6).t().contiguous().t()) == expected
    assert checksum(torch.nn.Parameter(tensor.reshape(4, 6))) == expected


def test_nothing_has_a_checksum() -> None:
    assert checksum(torch.zeros(0)).item() == 0
    assert checksum(torch.tensor(1.5)) != checksum(torch.tensor(2.5))
