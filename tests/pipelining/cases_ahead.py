"""Frames that travel ahead: lengths, numbers of tensors, texts and numbers change each time."""

from __future__ import annotations

from typing import Any

import torch

from tests import varying

from .case import Batch, Case, sgd

__all__ = ["CASES"]

CHUNKS = 4


def stages(count: int) -> Any:
    width = varying.WIDTH
    middles = [varying.Middle(width, width) for _ in range(count - 2)]
    return [varying.First(width), *middles, varying.Last(width, width)]


def batch(step: int, chunks: int, evaluate: bool) -> Batch:
    """Return a batch; each micro-batch is longer than the one before, in evaluation too."""
    generator = torch.Generator().manual_seed(2 * step + evaluate)
    each = varying.ROWS + evaluate - (step == 2)  # rows of a micro-batch; the last batch is short
    rows = each * chunks
    x = torch.randn(rows, varying.LONGEST, varying.WIDTH, generator=generator)
    lengths = torch.tensor([1 + row // each + step + evaluate for row in range(rows)])
    target = torch.randn(rows, varying.WIDTH, generator=generator)
    return Batch.of({"x": x, "lengths": lengths}, target, chunks)


CASES = {
    f"{schedule}, {name}": Case(
        stages=stages,
        batch=batch,
        inputs=("x", "lengths"),
        schedule=schedule,
        loss=varying.loss_fn,
        optimizer=sgd,
        chunks=6 if schedule == "DualPipeV" else CHUNKS,  # twice the ranks, or more
        evaluate=frozenset({0, 1, 3}),
        options=options,
        worlds=(3,),
    )
    for schedule in ("1F1B", "GPipe", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV")
    for name, options in (
        ("ahead", {"read": "ahead"}),
        ("read", {"dynamic_shape": True, "read": "always"}),
    )
}
