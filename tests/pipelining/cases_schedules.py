"""Every schedule trains the same stages, in 2 ranks with SGD and in 3 with AdamW."""

from __future__ import annotations

from .schedules import SCHEDULES
from .stages import batch, chain
from .training import Case, adamw, sgd

__all__ = ["CASES"]

CASES = {
    f"{name}, {optimizer.__name__}": Case(
        stages=chain(),
        batch=batch,
        inputs=["ids", "mask", "scale"],
        schedule=name,
        optimizer=optimizer,
        evaluate=frozenset({0, 2, 3}),
        chunks=6,
        worlds=(world,),
        within=0.0 if SCHEDULES[name].in_order else 1e-6,
    )
    for name in SCHEDULES
    for world, optimizer in ((2, sgd), (3, adamw))
}
