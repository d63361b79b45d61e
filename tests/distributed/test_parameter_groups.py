"""Parameter groups over the whole model train, whatever groups a stage has parameters of.

DeepSpeed removes groups that are empty on a rank, and its ZeRO optimizer finds the norm of each
group together with the other stages: a stage that lacked one, as a frozen stage does, hung in the
first step.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from pipecodec.deepspeed.inner import count_steps_by_group
from pipecodec.demo.launch import Rank

from .groups import groups_of
from .harness import values
from .precision import Case, engine_of
from .test_unused import check, named

WAYS = [
    "function",
    "function without empty groups",
    "function of the whole model",
    "groups",
    "groups with names",
    "object",
]
CONFIGURED = {
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 0.02, "weight_decay": 0.1}}
}


@pytest.mark.parametrize("stages", [{"bare": True}, {"frozen": True}])
def test_a_stage_may_lack_a_group(stages: dict[str, Any]) -> None:
    ways = [("fp32", 1, way) for way in WAYS]
    ways += [("fp32", 0, "object"), ("bf16", 1, "function"), ("fp16", 0, "groups")]
    cases = [Case("adamw", precision, z, grouped=way, **stages) for precision, z, way in ways]
    way = "groups for the configuration"
    cases.append(Case("adamw", "fp32", 1, grouped=way, config=CONFIGURED, **stages))
    check(named(*cases))


def test_replicas_clip_with_groups_that_a_stage_lacks() -> None:
    both = {"bare": True, "frozen": True, "grouped": "function", "clip": 0.3, "pipes": 3}
    cases = [
        Case("adamw", precision, zero, 2, "other layers", **both)
        for precision, zero in product(["fp32", "bf16", "fp16"], (0, 1))
        if precision != "bf16" or zero
    ]
    check(named(*cases), within=2.5e-7)


def test_adagrad_keeps_its_groups_and_its_schedule_with_zero() -> None:
    """DeepSpeed made another one, of a single group with default options."""
    check(named(*(Case("adagrad", "fp32", zero, grouped="function") for zero in (0, 1))))


def test_steps_are_counted_by_group_where_parameters_miss_some() -> None:
    """FusedAdam, which needs a compiler, takes the count of the last parameter with a gradient."""
    first, last, new = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    optimizer = torch.optim.SGD([first, last, new], lr=0.1)
    optimizer.state[first]["step"], optimizer.state[last]["step"] = 1, 5
    count_steps_by_group(optimizer)
    assert (optimizer.state[first]["step"], optimizer.param_groups[0]["step"]) == (5, 5)


def refused(rank: Rank, stage: int) -> list[str]:
    """Return the errors of this rank; ``stage`` is that whose function fails."""
    case = Case()
    stages = case.build()
    every = list(stages.parameters())

    def fails(parameters: Any) -> Any:
        if rank.rank == stage:
            raise KeyError("the name of a layer")
        return torch.optim.SGD(parameters, lr=0.1)

    def stranger(parameters: Any) -> Any:
        return torch.optim.SGD([*parameters, torch.nn.Parameter(torch.ones(2, 3))], lr=0.1)

    def of_this_stage(parameters: Any) -> Any:
        groups = groups_of(parameters)[: rank.rank + 1]
        groups[0]["a function"] = lambda: None
        return torch.optim.SGD(groups, lr=0.1)

    texts = []
    for options in (
        {"model_parameters": [{"params": every}, {"params": [every[-1]]}]},
        {"optimizer": fails},
        {"optimizer": stranger},
        {"optimizer": of_this_stage},
    ):
        with pytest.raises((ValueError, KeyError)) as caught:
            engine_of(case, stages, **options)
        texts.append(str(caught.value))
    return texts


def test_errors_of_groups_are_raised_on_all_ranks() -> None:
    ranks = values(refused, 2, 0)
    twice, failed, stranger, numbers = zip(*ranks, strict=True)
    assert set(twice) == {"some parameters appear in more than one parameter group"}
    assert failed == (
        "'the name of a layer'",
        "rank 0 has no optimizer: KeyError: 'the name of a layer'",
    )
    assert stranger[0].startswith(
        "a parameter of shape [2, 3] that the optimizer is to train is in"
    )
    assert numbers[0] == numbers[1]
    assert numbers[0].startswith("ranks make different numbers of parameter groups (1, 2), which")
