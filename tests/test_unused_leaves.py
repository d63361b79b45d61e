"""Codecs without an engine mark unused leaves in the tunnel's gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import pipecodec


def by_hand(value: Any, loss_of_received: Any, cut: bool) -> None:
    """Run a value through a boundary in one process; with ``cut`` copy tensors, as engines do."""
    sender, receiver = (pipecodec.Codec(transport="tunnel") for _ in range(2))
    sent = sender.pack(value)
    if not cut:
        loss_of_received(receiver.receive(sent)).backward()
        return
    arrived = tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent)
    loss_of_received(receiver.receive(arrived)).backward()
    sent[0].backward(arrived[0].grad)


@pytest.mark.parametrize("cut", [False, True])
def test_codecs_without_an_engine_say_it_in_the_tail(cut: bool) -> None:
    used, unused = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))
    by_hand({"a": used * 2, "b": unused * 2}, lambda got: got[0]["a"].sum() + got[1].sum(), cut)
    assert unused.grad is None and used.grad.tolist() == [2.0] * 4
    lone = nn.Parameter(torch.ones(4))
    by_hand(lone * 2, lambda got: got[1].sum(), cut)
    assert lone.grad.tolist() == [0.0] * 4 if cut else lone.grad is None


def test_gradients_that_are_made_by_hand_have_no_tail() -> None:
    """Of zeros, or of ones: neither says that a leaf was not used."""
    for value in (0.0, 1.0):
        weight = nn.Parameter(torch.ones(2))
        tunnel, _ = pipecodec.Codec(transport="tunnel").pack([weight * 2, weight * 3])
        tunnel.backward(torch.full_like(tunnel, value))
        assert weight.grad.tolist() == [5 * value] * 2
