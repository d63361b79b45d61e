"""Stages that change after they were described or built: still tied, or an error on every rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec import Partition, partition_modules
from pipecodec.deepspeed import pipeline_module
from pipecodec.demo.launch import Rank

from .engines import join
from .harness import values
from .tied import Case, build, engine_of

CASE = Case("plain", 3)
TIED = ("embed", "middle", "head")
"""The modules of the stages; the first and the last have the tied weight."""


def start() -> tuple[Partition, Any]:
    join()
    model, stages, loss = build(CASE)
    return partition_modules(stages, model=model), loss


def step(engine: Any, index: int) -> float:
    loss: float = engine.train_batch(CASE.batches(index, 0)).item()
    return loss


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def wrap(rank: Rank, depth: str) -> tuple[list[float], list[float]]:
    """Wrap a running stage, or its module with the tied weight, between two steps."""
    part, loss = start()
    engine = engine_of(CASE, part, loss)
    losses = [step(engine, 0)]
    stage = engine.module.forward_funcs[0]
    if depth == "stage":
        stage.mod = Wrapped(stage.mod)
    elif depth == "module":
        setattr(stage.mod, TIED[rank.rank], Wrapped(stage.mod.get_submodule(TIED[rank.rank])))
    losses += [step(engine, index) for index in (1, 2)]
    tied = [p for p in engine.module.parameters() if p.shape == (16, 8)]
    return losses, tied[0].flatten().tolist() if tied else []


def test_wrapping_a_running_stage_changes_nothing() -> None:
    plain = values(wrap, 3, "")
    assert plain[0][1] == plain[2][1] != []
    for depth in ("stage", "module"):
        assert values(wrap, 3, depth) == plain


def replaced(rank: Rank, when: str) -> tuple[str, int]:
    """Give stage 2 another parameter; return the error, and how much of a batch is left."""
    part, loss = start()
    last = part.stages[2]
    batches: list[Any] = []

    def replace() -> None:
        if when == "wrapped":
            last.head = Wrapped(last.head)
        else:
            last.head.weight = nn.Parameter(last.head.weight.detach().clone())

    try:
        if when == "wrapped":
            replace()
        engine = engine_of(CASE, part, loss)
        step(engine, 0)
        replace()
        batches = list(CASE.batches(1, 0))
        engine.train_batch(iter(lambda: batches.pop(), None))
    except Exception as error:
        return str(error), len(batches)
    return "", 0


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("wrapped", "a tied weight has no parameter head.weight (stage 2) on rank 2; "),
        ("running", "head.weight (stage 2) was replaced after the pipeline module was built"),
    ],
)
def test_another_parameter_is_an_error_on_every_rank(when: str, message: str) -> None:
    ended = values(replaced, 3, when)
    for said, _ in ended:
        assert message in said
    if when == "running":
        assert ended[2][1] == CASE.accumulate


def again(rank: Rank, tie: bool) -> Any:
    """Replace a tied weight between module and engine; only the first rank has the right value."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    part, loss = start()
    config = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_print": None}
    module = pipeline_module(
        part, topology=PipeModelDataParallelTopology(3, 1, 1), loss_fn=loss, config=config
    )
    if rank.rank != 1:
        own = module.forward_funcs[0].mod.get_submodule(TIED[rank.rank])
        own.weight = nn.Parameter(own.weight.detach() + rank.rank)
    if tie:
        module.retie()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    engine = deepspeed.initialize(model=module, config=config, optimizer=optimizer)[0]

    def batch(whole: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return whole["ids"], whole["labels"]

    engine.set_batch_fn(batch)
    if not tie and rank.rank != 1:
        with pytest.raises(ValueError, match="call retie"):
            module.get_tied_weights_and_groups()
        return []
    if tie:
        for index in range(2):
            step(engine, index)
    tied = [p for p in module.parameters() if p.shape == (16, 8)]
    return [(p.ds_pipe_replicated, p.flatten().tolist()) for p in tied]


def test_retie_ties_what_was_replaced_before_the_engine_is_made() -> None:
    first, middle, last = values(again, 3, True)
    assert middle == []
    assert [first[0][0], last[0][0]] == [False, True]
    assert first[0][1] == last[0][1]


def test_what_was_replaced_and_not_tied_anew_is_an_error_without_initialize() -> None:
    assert values(again, 3, False) == [[]] * 3


def left_on_meta(rank: Rank) -> str:
    part, loss = start()
    part.stages[1].to("meta")
    with pytest.raises(ValueError) as caught:
        engine_of(CASE, part, loss)
    return str(caught.value)


def test_every_rank_is_told_that_a_stage_has_no_memory() -> None:
    for message in values(left_on_meta, 3):
        assert message.startswith("middle.weight of stage 1 is on the meta device; give the")
        assert message.endswith("(rank 1)")
