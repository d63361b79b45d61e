"""Torch's schedules, with the stages that a rank has in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
)
from torch.distributed.pipelining.schedules import ScheduleDualPipeV, ScheduleZBVZeroBubble

__all__ = ["SCHEDULES", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A schedule, and which stages lie on a rank: one, those of a loop, or those of a V."""

    schedule: Any
    places: str = "one"
    in_order: bool = True
    """Whether each stage's backward passes come in the order of the micro-batches."""

    def count(self, world: int) -> int:
        """Return the number of stages."""
        return world if self.places == "one" else 2 * world

    def stages(self, rank: int, world: int) -> list[int]:
        """Return the stages of a rank."""
        second = {"loop": rank + world, "V": 2 * world - 1 - rank}
        return [rank] if self.places == "one" else [rank, second[self.places]]

    def make(self, stages: list[Any], chunks: int, **options: Any) -> Any:
        """Return a schedule of these stages."""
        return self.schedule(stages[0] if self.places == "one" else stages, chunks, **options)


SCHEDULES = {
    "GPipe": Kind(ScheduleGPipe),
    "1F1B": Kind(Schedule1F1B),
    "LoopedBFS": Kind(ScheduleLoopedBFS, "loop", in_order=False),
    "Interleaved1F1B": Kind(ScheduleInterleaved1F1B, "loop"),
    "InterleavedZeroBubble": Kind(ScheduleInterleavedZeroBubble, "loop"),
    "ZBVZeroBubble": Kind(ScheduleZBVZeroBubble, "V"),
    "DualPipeV": Kind(ScheduleDualPipeV, "V"),
}
