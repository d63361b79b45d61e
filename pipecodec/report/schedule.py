"""The pipeline's bubble under the 1F1B schedule."""

from __future__ import annotations

from collections.abc import Sequence

from .facts import Schedule

__all__ = ["schedule_of"]

SOURCE = (
    "(p-1)/m of the time of useful work, and so (p-1)/(m+p-1) of all, with p stages and m "
    "micro-batches: Narayanan et al. 2021, arXiv 2104.04473, section 2.2"
)


def schedule_of(stages: int, micro_batches: int, seconds: Sequence[float] | None) -> Schedule:
    """Return the share of the time in which a rank waits, with equal and with measured times."""
    return Schedule(
        micro_batches=micro_batches,
        bubble=(stages - 1) / (micro_batches + stages - 1),
        measured_bubble=None if not seconds or not sum(seconds) else idle(seconds, micro_batches),
        source=SOURCE,
    )


def idle(seconds: Sequence[float], micro_batches: int) -> float:
    """Return the idle share of 1F1B with these times of a forward, and twice that for a backward.

    Messages take no time here.
    """
    stages = len(seconds)
    ends: dict[tuple[int, str, int], float] = {}
    clocks = [0.0] * stages
    queues = [_order(stage, stages, micro_batches) for stage in range(stages)]
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue and (ready := _ready(ends, stage, stages, *queue[0])) is not None:
                way, batch = queue.pop(0)
                clocks[stage] = max(clocks[stage], ready) + seconds[stage] * (1 + (way == "back"))
                ends[stage, way, batch] = clocks[stage]
    return 1 - 3 * micro_batches * sum(seconds) / (stages * max(clocks))


def _order(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """Return a stage's passes: forwards until the last stage has one, then one back for each."""
    ahead = min(stages - stage - 1, micro_batches)
    order = [("forward", batch) for batch in range(ahead)]
    for batch in range(micro_batches):
        if ahead + batch < micro_batches:
            order.append(("forward", ahead + batch))
        order.append(("back", batch))
    return order


def _ready(
    ends: dict[tuple[int, str, int], float], stage: int, stages: int, way: str, batch: int
) -> float | None:
    """Return the time at which a pass has all it needs, None if that is not known yet."""
    if way == "forward":
        return 0.0 if stage == 0 else ends.get((stage - 1, way, batch))
    if stage == stages - 1:
        return ends.get((stage, "forward", batch))
    return ends.get((stage + 1, way, batch))
