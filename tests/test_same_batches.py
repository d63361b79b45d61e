"""The comparison of batches between the first and the last stage of each pipeline."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from pipecodec.engine.same_batches import SameBatches
from pipecodec.stages.stage import Absent

Batch = dict[str, Any]
IDS = torch.arange(20000).reshape(4, 5000)


def problem(pipelines: list[tuple[list[Batch], list[Batch]]]) -> str | None:
    """Compare the micro-batches of the first and the last stage of each pipeline."""
    ranks = []
    for index, both in enumerate(pipelines):
        for sign, batches in zip((1, -1), both, strict=True):
            ranks.append(SameBatches(["ids", "kind"], sign, index))
            for batch in batches:
                ranks[-1].note({"ids": Absent.ABSENT, "kind": Absent.ABSENT, **batch})
        ranks.append(SameBatches(["ids", "kind"], 0, index))  # a stage between
    sums = [sum(each) for each in zip(*(rank.numbers() for rank in ranks), strict=True)]
    return ranks[0].problem(sums)


def batch(seed: int, **changes: Any) -> Batch:
    ids = torch.randint(99, (2, 7), generator=torch.Generator().manual_seed(seed))
    return {"ids": ids, "kind": {"name": "a", "mask": None, "scale": 0.5}, **changes}


EQUAL = [batch(1), batch(2)]


@pytest.mark.parametrize(
    "both",
    [
        (EQUAL, [batch(1), batch(2)]),
        ([batch(1, ids=Absent.ABSENT)], [batch(1)]),
        ([batch(1, kind=object())], [batch(1, kind=object())]),
        ([batch(1, ids=IDS.t())], [batch(1, ids=IDS.t().contiguous())]),
        ([batch(1, ids=IDS.bfloat16())], [batch(1, ids=IDS.bfloat16())]),
        ([batch(1, ids=IDS[:0])], [batch(1, ids=IDS[:0])]),
        ([batch(1, ids=IDS.to_sparse())], [batch(1, ids=IDS.to_sparse())]),
    ],
)
def test_equal_batches_pass(both: Any) -> None:
    assert problem([both]) is None
    assert problem([both, (EQUAL, EQUAL)]) is None


@pytest.mark.parametrize(
    ("both", "message"),
    [
        ((EQUAL, EQUAL[::-1]), "'ids' from .* has with another value"),
        (([batch(1)], [batch(1, ids=batch(1)["ids"].int())]), "'ids' from .* another value"),
        (([batch(1)], [batch(1, ids=batch(1)["ids"].reshape(7, 2))]), "'ids' from .* another"),
        (([batch(1)], [batch(1, kind={"name": "b"})]), "'kind' from .* has with another value"),
        (([batch(1, ids=IDS)], [batch(1, ids=IDS + 1)]), "'ids' from .* another value"),
        (([batch(1)], [batch(1, ids=Absent.ABSENT)]), "'ids' from .* it lacks, while"),
    ],
)
def test_other_batches_are_named(both: Any, message: str) -> None:
    for pipelines in ([both], [both, (EQUAL, EQUAL)], [(EQUAL, EQUAL), both]):
        found = problem(pipelines)
        assert found is not None
        assert re.search(message, found)


def test_replicas_with_exchanged_batches_do_not_cancel_each_other() -> None:
    one, other = [batch(1)], [batch(2)]
    assert problem([(one, one), (other, other)]) is None
    assert problem([(one, other), (other, one)]) is not None


def test_each_batch_is_compared_by_itself() -> None:
    one = SameBatches(["ids"], 1, 0)
    one.note(batch(1))
    before = one.numbers()
    one.start()
    one.note(batch(1))
    assert one.numbers() == before
