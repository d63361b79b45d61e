"""Which values a rank with several stages hands on to itself, for placements of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipecodec
from pipecodec.stages.rank_liveness import Link, RankLiveness, rank_liveness

LOOP, V = [0, 1, 0, 1], [0, 1, 1, 0]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.spare = nn.Parameter(torch.ones(3))
        self.kept: Any = None


def cut(*forwards: Callable[..., Any], outputs: Sequence[Any] | None = None) -> pipecodec.Partition:
    """Return stages with these methods, the first of which takes ``x`` and perhaps more."""
    stages = [type("Made", (Base,), {"forward": forward})() for forward in forwards]
    return pipecodec.partition_modules(stages, outputs=outputs)


def plan_of(part: pipecodec.Partition, owners: Sequence[int]) -> RankLiveness:
    return rank_liveness(part.liveness, part.stage_id_2_arg_names, owners, part.outputs)


def first(self: Any, x: Tensor) -> dict[str, Any]:
    return {"h": x * self.weight, "skip": x + self.weight}


def middle(self: Any, h: Tensor) -> dict[str, Any]:
    return {"h": h * self.weight}


def with_skip(self: Any, h: Tensor, skip: Tensor) -> dict[str, Any]:
    return {"h": h * self.weight + skip}


def last(self: Any, h: Tensor, skip: Tensor) -> Tensor:
    return (h * skip * self.weight).sum()


H = [["h", "skip"], ["h"], ["h"], None]


@pytest.mark.parametrize(
    ("owners", "links"),
    [
        (LOOP, [Link(0, 2, ("skip",)), Link(1, 3, ("skip",))]),
        (V, [Link(0, 3, ("skip",))]),
        ([0, 0, 0, 0], []),
        ([0, 1, 2, 3], []),
        ([0, 0, 1, 0], [Link(1, 3, ("skip",))]),
        ([0, 1, 0, 0], [Link(0, 2, ("skip",))]),
    ],
)
def test_links_of_placements(owners: list[int], links: list[Link]) -> None:
    part = cut(first, middle, with_skip, last, outputs=H)
    plan = plan_of(part, owners)
    assert plan.links == links
    assert all(names.count("h") == 1 for names in plan.liveness[1:])


def test_a_chain_of_links_brings_a_value_to_every_stage_of_a_rank() -> None:
    part = cut(
        first, with_skip, with_skip, with_skip, with_skip, last, outputs=[H[0], *[["h"]] * 5]
    )
    plan = plan_of(part, [0, 1, 0, 1, 0, 1])
    assert plan.links == [Link(k, k + 2, ("skip",)) for k in range(4)]
    assert [("skip" in live) for live in plan.liveness] == [False, True, *[False] * 4]


def test_a_declared_output_is_another_value() -> None:
    part = cut(first, middle, middle, with_skip, last, outputs=[*H[:3], ["h"], None])
    assert all("h" not in link.names for link in plan_of(part, [0, 1, 0, 1, 0]).links)


def test_what_an_undeclared_stage_gives_first_is_another_value() -> None:
    part = cut(first, middle, with_skip, last)
    assert all(link.names == ("skip",) for link in plan_of(part, LOOP).links)


def test_an_item_comes_out_of_the_whole_that_the_rank_has() -> None:
    liveness = [["x"], ["submod_0"], ["submod_0", "submod_1"], ["submod_0.0", "submod_2"]]
    args: dict[int, list[Any]] = {-1: ["x"], 0: ["x"], 1: ["submod_0"]}
    args |= {2: ["submod_1", "submod_0.1"], 3: ["submod_2", "submod_0.0"]}
    plan = rank_liveness(liveness, args, LOOP, [None] * 4)
    assert plan.links == [Link(0, 2, ("submod_0",)), Link(1, 3, ("submod_0.0",))]
    assert plan.liveness[3] == ["submod_2", "submod_0.0@1"]
