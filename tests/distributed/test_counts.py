"""How many messages a micro-batch costs, beside those of the algorithm this project began with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import pipecodec
from pipecodec.demo.launch import Rank

from .harness import values
from .rows import ROWS
from .stages import build
from .table import Grid, engine_of, micro_batches

GRID = Grid(3)

COUNTS = {
    "None": ((2, 1), (3, 1)),
    "float mask without gradient": ((2, 1), (3, 2)),
    "evaluation first and between": ((3, 1), (6, 4)),  # one mask is large; one float is a number
    "130 tensors": ((2, 1), (132, 101)),
    "100 large tensors": ((66, 1), (102, 1)),
    "bypassed float with gradient": ((2, 1), (3, 2)),
}
"""By row: messages (forward, back) for each micro-batch and boundary, and the origin's."""


def count(rank: Rank, names: list[str]) -> dict[str, Counter[tuple[int, int]]]:
    """Count what this rank sends in a steady step, by (own stage, stage sent to)."""
    from deepspeed.runtime.pipe import p2p

    plain, counted = p2p.send, {}
    for name in names:
        engine = engine_of(ROWS[name], build(ROWS[name], 3), GRID)
        engine.train_batch(micro_batches(ROWS[name], GRID, 0))
        sent: Counter[tuple[int, int]] = Counter()

        def send(tensor: torch.Tensor, stage: int, sent: Any = sent, own: Any = engine) -> None:
            sent[own.stage_id, stage] += 1
            plain(tensor, stage)

        p2p.send = send
        engine.train_batch(micro_batches(ROWS[name], GRID, 1))
        p2p.send = plain
        counted[name] = sent
    return counted


def of_the_origin(name: str) -> tuple[int, int]:
    """Its tensors and one of metadata; back one for each that the engine takes for a float."""
    (batch, *_) = micro_batches(ROWS[name], GRID, 0)
    given = build(ROWS[name], 3)[0](batch["x"], batch["ids"])
    _, tensors = pipecodec.flatten((given["hidden"], given["value"]), "cpu")
    return len(tensors) + 1, sum(tensor.is_floating_point() for tensor in tensors)


def test_messages_for_each_micro_batch_and_boundary() -> None:
    by_rank = values(count, 3, list(COUNTS))
    for name, ((forward, back), origin) in COUNTS.items():
        sent: Counter[tuple[int, int]] = sum((counts[name] for counts in by_rank), Counter())
        each = {edge: number / GRID.accumulate for edge, number in sent.items()}
        assert each == {(0, 1): forward, (1, 2): forward, (1, 0): back, (2, 1): back}
        assert of_the_origin(name) == origin


class Waits(TorchDispatchMode):
    """Counts operations after which the host would have to wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._opname in ("_local_scalar_dense", "_to_copy", "nonzero", "equal", "is_nonzero"):
            self.seen[func._opname] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["None", "130 tensors", "evaluation first and between"])
def test_steady_state_adds_no_wait_of_the_host(name: str) -> None:
    """Under an accelerator the receiving side's read of the frame would come on top."""
    codecs = [
        pipecodec.Codec(transport="tunnel", name=side) for side in ("sender", "receiver", "next")
    ]
    (batch, *_) = micro_batches(ROWS[name], GRID, 0)
    given = build(ROWS[name], 3)[0](batch["x"], batch["ids"])
    # Without the model's own history, in which there may be anything.
    given = pytree.tree_map_only(
        torch.Tensor, lambda t: t.detach().requires_grad_(t.requires_grad), given
    )

    def cross() -> None:
        sent = codecs[0].send(tuple(given.values()), None)
        received = tuple(t.detach().clone() for t in sent)
        received[0].requires_grad_()
        value, token = codecs[1].receive(received)
        onward = codecs[2].send(value, token)
        onward[0].backward(torch.ones_like(onward[0]))
        sent[0].backward(received[0].grad)

    cross()
    with Waits() as waits:
        cross()
    assert not waits.seen
    with Waits() as waits:
        float(batch["x"].sum())
    assert waits.seen == {"_local_scalar_dense": 1}
