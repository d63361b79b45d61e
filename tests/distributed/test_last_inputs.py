"""The last stage takes inputs from the batch of its own rank, and trains as in one process."""

from __future__ import annotations

import re
import sys
import traceback

import pytest
import torch

from pipecodec.demo.launch import Rank

from .comparison import check
from .engines import Grid
from .harness import values
from .last_inputs import KINDS, Case
from .reference import in_one_process
from .training import Trained, on_engine, train


def run(rank: Rank, cases: dict[str, Case]) -> dict[str, tuple[Trained, list[str]]]:
    """Train all; also return the names of the tensors that this rank sent first."""
    found = {}
    for name, case in cases.items():
        rank.say(name)
        trained = train(case)
        found[name] = trained, [value for value, _ in case.seen.values]
    return found


def test_values_cross_as_far_as_stages_before_the_last_one_need_or_change_them() -> None:
    cases = {name: Case(name, Grid(3)) for name in KINDS}
    (whole,) = values(in_one_process, 1, cases)
    ranks = values(run, 3, cases)
    for name, kind in KINDS.items():
        check([rank[name][0] for rank in ranks], whole[name])
        for boundary in (0, 1):
            names = {value for value in ranks[boundary][name][1] if value != "hidden"}
            assert names == set(kind.crossing[boundary]), (name, boundary)


GRIDS = {
    "dualpipev": ("middle too", {"grid": Grid(4, schedule="dualpipev")}),
    "dualpipev, checkpointed": (
        "first writes",
        {"grid": Grid(4, schedule="dualpipev"), "checkpointed": True},
    ),
    "checkpointed": ("middle writes", {"grid": Grid(2), "checkpointed": True}),
    "pairs": ("middle too", {"grid": Grid(2), "pairs": True}),
}


def test_on_two_ranks() -> None:
    cases = {name: Case(kind, **given) for name, (kind, given) in GRIDS.items()}
    (whole,) = values(in_one_process, 1, cases)
    ranks = values(on_engine, 2, cases)
    for name in cases:
        check([rank[name] for rank in ranks], whole[name])


def test_with_two_replicas() -> None:
    cases = {"": Case("middle writes", Grid(2, replicas=2))}
    (whole,) = values(in_one_process, 1, cases)
    check([rank[""] for rank in values(on_engine, 4, cases)], whole[""])


OTHER_BATCHES = (
    "the last stage takes 'labels' from the batch of its own rank, which it has with another value "
    "than the batch of the first rank; give the first and the last rank of a pipeline the same "
    "micro-batches in the same order, as with one seed for shuffling"
)


def other_order(rank: Rank) -> tuple[list[str], float]:
    """Give the last rank the batches in another order, in an evaluation and a training."""
    case = Case("only the last", Grid(2))
    engine, _ = case.engine(case.build())
    errors = []
    for method in (engine.eval_batch, engine.train_batch):
        batches = list(case.batches(7, 0))
        with pytest.raises(ValueError) as caught:
            method(iter(batches[::-1] if rank.rank == 1 else batches))
        errors.append(str(caught.value))
    return errors, engine.train_batch(case.batches(0, 0)).item()


def test_batches_in_another_order_are_an_error_on_all_ranks_and_train_nothing() -> None:
    case = Case("only the last", Grid(2))
    (whole,) = values(in_one_process, 1, {"": case})
    for errors, loss in values(other_order, 2):
        assert errors == [OTHER_BATCHES] * 2
        assert loss == whole[""].losses[0]


def lacking(rank: Rank) -> str:
    """Leave out an input that the last stage takes from its batch, and the first stage too."""
    case = Case("first too", Grid(2))
    engine, _ = case.engine(case.build())
    batches = list(case.batches(0, 0))
    if rank.rank == 1:
        batches = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]
    with pytest.raises(Exception) as caught:
        engine.train_batch(iter(batches))
    return str(caught.value)


def test_an_input_that_only_the_last_rank_lacks_is_an_error_on_all_ranks() -> None:
    for message in values(lacking, 2):
        assert (
            "the last stage takes 'labels' from the batch of its own rank, which lacks it; give "
            "the first and the last rank of a pipeline the same batches"
        ) in message


def other_size(rank: Rank) -> str:
    """Give the last rank a label more than the model's output has rows."""
    case = Case("only the last", Grid(2))
    engine, _ = case.engine(case.build())
    batches = list(case.batches(0, 0))
    if rank.rank == 1:
        batches = [b | {"labels": torch.cat([b["labels"], b["labels"][:1]])} for b in batches]
    with pytest.raises(Exception) as caught:
        engine.train_batch(iter(batches))
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have notes from Python 3.11 on")
def test_an_error_of_a_model_whose_inputs_have_other_sizes_tells_of_both_batches() -> None:
    for text in values(other_size, 2):
        assert re.search(r"\(The last stage takes .*labels.* from the batches of its own", text)
