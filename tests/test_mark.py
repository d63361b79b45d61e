"""The mark of an unused single leaf in its gradient, in place of zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pipecodec


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16,
                                   torch.complex64, torch.float8_e5m2])  # fmt: skip
def test_a_lone_leaf_that_nobody_used_is_marked_in_place_of_zeros(dtype: torch.dtype) -> None:
    sender, receiver = (pipecodec.Codec(transport="tunnel") for _ in range(2))
    receiver.mark_unused = True
    for uses in (False, True):
        weight = torch.ones(64).to(dtype).requires_grad_()
        sent = sender.pack(weight.view(64))
        arrived = tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent)
        value, token = receiver.receive(arrived)
        with torch.autograd.set_detect_anomaly(True):
            if uses:
                torch.autograd.backward([value], [torch.zeros(64).to(dtype)])
            else:
                token.sum().backward()
        assert arrived[0].grad.isfinite().all()
        sent[0].backward(arrived[0].grad)
        assert (weight.grad is not None) == uses
        if uses:
            assert not weight.grad.view(torch.uint8).any()


def test_a_gradient_that_begins_like_the_mark_is_a_gradient() -> None:
    sender, receiver = (pipecodec.Codec(transport="tunnel") for _ in range(2))
    receiver.mark_unused = True
    weight = nn.Parameter(torch.ones(8))
    sent = sender.pack(weight * 1)
    arrived = tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent)
    receiver.receive(arrived)[1].sum().backward()
    mark = arrived[0].grad.clone()
    assert mark[:4].all() and not mark[4:].any()
    mark[7] = 1.0
    sent[0].backward(mark)
    assert torch.equal(weight.grad, mark)
