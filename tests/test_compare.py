"""Comparing bytes in place: the verdict is set, and never cleared."""

from __future__ import annotations

import pytest
import torch

from pipecodec import _C


@pytest.mark.parametrize("before", [0, 1, 6])
@pytest.mark.parametrize("size", [0, 1, 17, 4000])
def test_verdict_says_whether_bytes_differ(size: int, before: int) -> None:
    expected = torch.randint(0, 256, (size,), dtype=torch.uint8)
    received, verdict = expected.clone(), torch.tensor([before], dtype=torch.int32)
    _C.compare(received, expected, verdict)
    assert verdict.item() == before
    for place in {0, size // 2, size - 1} if size else set():
        verdict.fill_(before)
        received[place] ^= 64
        _C.compare(received, expected, verdict)
        assert verdict.item() == before | 1
        received[place] ^= 64
        _C.compare(received, expected, verdict)
        assert verdict.item() == before | 1


def test_what_follows_the_expected_bytes_is_not_compared() -> None:
    received, verdict = torch.tensor([1, 2, 3, 4]).byte(), torch.zeros(1, dtype=torch.int32)
    _C.compare(received, received[:3].clone(), verdict)
    assert verdict.item() == 0
    _C.compare(received, torch.tensor([1, 2, 4]).byte(), verdict)
    assert verdict.item() == 1


@pytest.mark.parametrize(
    ("received", "verdict"),
    [
        (torch.zeros(3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)),
        (torch.zeros(8, dtype=torch.uint8)[::2], torch.zeros(1, dtype=torch.int32)),
        (torch.zeros(1), torch.zeros(1, dtype=torch.int32)),
        (torch.zeros(4, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)),
        (torch.zeros(4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32)),
    ],
)
def test_what_cannot_be_compared_is_refused(received: torch.Tensor, verdict: torch.Tensor) -> None:
    with pytest.raises(
        RuntimeError, match="at least as many as those expected, and the mismatch flag one int32"
    ):
        _C.compare(received, torch.zeros(4, dtype=torch.uint8), verdict)
    with pytest.raises(TypeError, match="takes tensors"):
        _C.compare(received, b"1234", verdict)
