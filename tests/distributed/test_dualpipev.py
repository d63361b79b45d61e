"""The same stage modules on DualPipeV, where each rank holds two stages and the way is a V."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipecodec.demo.launch import Rank

from .comparison import check
from .engines import Grid
from .harness import values
from .models import Case
from .reference import in_one_process
from .training import Trained, train

CASE = Case("Decoder", Grid(4, schedule="dualpipev"), accumulate=4)


@dataclass(frozen=True)
class Counting(Case):
    """Also notes the stages of both phases, and the messages of a step by kind and peer."""

    seen: dict[str, Any] = field(default_factory=dict)

    def engine(self, model: Any) -> Any:
        import deepspeed

        engine, names = super().engine(model)
        assert type(engine).__name__ == "DualPipeVEngine"
        self.seen["held"] = [[w.stage_id for w in phase] for phase in engine.module.phase_funcs]
        queue, messages = engine._queue_p2p, Counter[tuple[str, int]]()

        def count(op: Any, tensors: Any, stage: int) -> None:
            messages["sent" if op is deepspeed.comm.isend else "received", stage] += len(tensors)
            queue(op, tensors, stage)

        engine._queue_p2p, self.seen["messages"] = count, messages
        return engine, names

    def train_batch(self, engine: Any, batches: Any, trained: Trained) -> None:
        self.seen["messages"].clear()
        super().train_batch(engine, batches, trained)


def train_counting(rank: Rank) -> tuple[Trained, dict[str, Any]]:
    case = Counting(CASE.model, CASE.grid, accumulate=CASE.accumulate)
    return train(case), case.seen


def test_trains_as_in_one_process() -> None:
    (whole,) = values(in_one_process, 1, {"": CASE})
    assert len(set(whole[""].losses)) == CASE.steps
    (first, seen), (second, other) = values(train_counting, 2)
    assert (seen["held"], other["held"]) == ([[0], [3]], [[1], [2]])
    check([first, second], whole[""])
    # Between stages 0 and 1, and between 2 and 3: two tensors forward, one back. The boundary
    # between 1 and 2 is inside rank 1, where nothing is sent.
    number = 3 * CASE.accumulate
    assert seen["messages"] == {("sent", 1): number, ("received", 1): number}
    assert other["messages"] == {("sent", 0): number, ("received", 0): number}


def refused(rank: Rank) -> str:
    with pytest.raises(ValueError) as caught:
        CASE.module(CASE.build(), dynamic_shape=True)
    return str(caught.value)


def test_dynamic_shapes_are_refused_at_set_up() -> None:
    for message in values(refused, 2):
        assert message == (
            "DualPipeV exchanges the shapes of a boundary's tensors once, so neither "
            "dynamic_shape=True nor read='ahead' can hold with schedule='dualpipev'; pad to one "
            "shape, or use schedule='1f1b'"
        )
