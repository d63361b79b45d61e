"""Stages whose backward pass is hard to split, under schedules that split it."""

from __future__ import annotations

from .split_stages import MIDDLES, Deaf, WithoutParameters
from .stages import First, Last, Middle, batch, chain
from .training import Case, adamw, plain

__all__ = ["CASES"]

KINDS = {name: (First, kind, Last) for name, kind in MIDDLES.items()}
KINDS["first without parameters"] = (WithoutParameters, Middle, Last)
KINDS["loss that ignores the input"] = (First, Middle, Deaf)
KINDS["all but the last frozen"] = (WithoutParameters, MIDDLES["Frozen"], Last)

CASES = {
    f"{name}, {schedule}": Case(
        stages=chain(*stages),
        batch=lambda *args: batch(*args, masked=False),
        schedule=schedule,
        optimizer=plain if name == "Sparse" else adamw,
        steps=2,
    )
    for name, stages in KINDS.items()
    for schedule in ("ZBVZeroBubble", "DualPipeV")
}
