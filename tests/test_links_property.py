"""Random stages of tensors on random ranks are the same training as in one process."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pipecodec

from .ranks_in_one_process import Ranks
from .simdev import TORCH
from .tensor_stages import TensorStages, tensor_stages
from .test_rank_liveness_property import OWNERS

EXAMPLES = settings(max_examples=100, deadline=None)
CHUNKS = 2
# In older torch, whose schedules pipecodec refuses, the split pass counts some gradients twice.
SPLIT = st.booleans() if TORCH >= (2, 13) else st.just(False)


def gradients(part: pipecodec.Partition) -> list[Any]:
    found = []
    for stage in part.stages:
        for parameter in stage.parameters():
            found.append(None if parameter.grad is None else parameter.grad.tolist())
            parameter.grad = None
    return found


def in_one_process(model: TensorStages, given: int) -> tuple[list[Any], list[Any], list[float]]:
    """Return calls, gradients and losses; no example without them."""
    part, calls = model.partition()
    losses = []
    for chunk in range(CHUNKS):
        try:
            loss = pipecodec.run_local(part, **model.batch(chunk, given))
            loss.backward()
        except (RuntimeError, ValueError):  # such as work in place on a parameter
            assume(False)
        losses.append(loss.item())
    assume(all(abs(loss) < 2**22 for loss in losses))
    return calls, gradients(part), losses


@given(
    model=tensor_stages(),
    owners=OWNERS,
    inputs=st.integers(1, 2),
    split=SPLIT,
    turned=st.booleans(),
)
@EXAMPLES
def test_ranks_are_one_process(
    model: TensorStages, owners: list[int], inputs: int, split: bool, turned: bool
) -> None:
    calls, expected, losses = in_one_process(model, inputs)
    part, seen = model.partition()
    count = len(part.stages)
    ranks = Ranks(part, owners[:count])
    found = [ranks.forward(chunk, model.batch(chunk, inputs)).item() for chunk in range(CHUNKS)]
    order = list(range(CHUNKS))
    for stage in reversed(range(count)):
        for chunk in reversed(order) if turned and stage % 2 else order:
            ranks.backward(stage, chunk, split=split)
    for stage in range(count):
        for chunk in order:
            ranks.weights(stage, chunk)
    assert seen == calls
    assert found == losses
    assert gradients(part) == expected
