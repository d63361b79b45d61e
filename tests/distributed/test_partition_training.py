"""Models that ``pipecodec.partition`` cut train on the engine as in one process."""

from __future__ import annotations

from .comparison import check
from .engines import Grid
from .harness import values
from .observed_models import Observed
from .reference import in_one_process
from .training import on_engine

EXACT = ["glm_moe_dsa", "llama", "mixtral", "block residuals"]
TIED = ["gemma3n", "llama, tied", "t5"]


def test_trains_as_in_one_process() -> None:
    cases = {name: Observed(name) for name in [*EXACT, *TIED]}
    (whole,) = values(in_one_process, 1, cases)
    ranks = values(on_engine, 3, cases)
    for name in cases:
        check([rank[name] for rank in ranks], whole[name], within=1e-6 if name in TIED else 0.0)


WAYS = {
    "sent": Observed("llama", options={"recompute": False}),
    "bf16": Observed("mixtral", precision="bf16"),
    "checkpointed": Observed("glm_moe_dsa", checkpointed=True),
}


def test_ways_to_train_in_three_ranks() -> None:
    (whole,) = values(in_one_process, 1, WAYS)
    ranks = values(on_engine, 3, WAYS)
    for name in WAYS:
        check([rank[name] for rank in ranks], whole[name])


def test_two_replicas() -> None:
    cases = {"": Observed("mixtral", Grid(2, replicas=2))}
    (whole,) = values(in_one_process, 1, cases)
    check([rank[""] for rank in values(on_engine, 4, cases)], whole[""])


def test_dualpipev() -> None:
    cases = {"": Observed("llama", Grid(4, schedule="dualpipev"))}
    (whole,) = values(in_one_process, 1, cases)
    check([rank[""] for rank in values(on_engine, 2, cases)], whole[""])
