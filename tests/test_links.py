"""Values that a rank hands on to itself stay the same, with gradients, aliases and changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import pipecodec
from pipecodec.options import BoundaryOptions
from pipecodec.pipelining.links import RankLink
from pipecodec.stages.rank_liveness import Link

from .distributed.observed_models import LENGTH, VOCABULARY, BlockResiduals
from .ranks_in_one_process import Ranks
from .test_rank_liveness import LOOP, H, V, cut, first, last, middle, plan_of, with_skip


def trained(
    part: pipecodec.Partition, run: Callable[[int, dict[str, Any]], Any], batch: dict[str, Any]
) -> tuple[list[float], list[Any]]:
    """Return the losses that ``run`` gives for two micro-batches, and all gradients."""
    for stage in part.stages:
        stage.kept = None
        stage.zero_grad()
    batches = [
        {name: value + chunk if torch.is_tensor(value) else value for name, value in batch.items()}
        for chunk in range(2)
    ]
    losses = [run(chunk, given) for chunk, given in enumerate(batches)]
    return losses, [
        None if parameter.grad is None else parameter.grad.tolist()
        for stage in part.stages
        for parameter in stage.parameters()
    ]


def assert_same(part: pipecodec.Partition, owners: Sequence[int], batch: dict[str, Any]) -> Ranks:
    ranks = Ranks(part, owners)

    def local(chunk: int, given: dict[str, Any]) -> float:
        loss = pipecodec.run_local(part, **given)
        loss.backward()
        return loss.item()

    def on_ranks(chunk: int, given: dict[str, Any]) -> float:
        return ranks.forward(chunk, given).item()

    losses, gradients = trained(part, local, batch)
    found, _ = trained(part, on_ranks, batch)
    for index in reversed(range(len(part.stages))):
        for chunk in range(2):
            ranks.backward(index, chunk)
    assert found == losses
    assert [
        None if parameter.grad is None else parameter.grad.tolist()
        for stage in part.stages
        for parameter in stage.parameters()
    ] == gradients
    return ranks


X = {"x": torch.tensor([1.0, 2.0, 3.0])}


def test_a_link_sends_nothing() -> None:
    """A tensor from stage 0 to stages 2 and 3 crosses one boundary, and without links each."""

    def make(self: Any, x: Tensor) -> dict[str, Any]:
        return {"h": x * self.weight, "skip": torch.ones(2048) * self.weight[0]}

    def end(self: Any, h: Tensor, skip: Tensor) -> Tensor:
        return (h * self.weight).sum() + skip.sum()

    def third(self: Any, h: Tensor, skip: Tensor) -> dict[str, Any]:
        return {"h": h * skip[:3]}

    part = cut(make, middle, third, end, outputs=H)
    for owners, crossings in ((LOOP, [1, 0, 0]), (V, [1, 0, 0])):
        ranks = assert_same(part, owners, X)
        linked = ranks.sent[1:]
        plain = Ranks(part, owners, linked=False)
        for chunk in range(2):
            plain.forward(chunk, X)
        assert [sent // 2**14 for sent in linked] == crossings
        whole = [1, 1, 1] if owners == LOOP else [1, 0, 1]
        assert [sent // 2**14 for sent in plain.sent[1:]] == whole


@dataclass
class Cache:
    states: list[Tensor]


def written(self: Any, h: Tensor, skip: Tensor) -> dict[str, Any]:
    skip.add_(self.weight)
    return {"h": h + skip}


def redefined(self: Any, h: Tensor) -> dict[str, Any]:
    return {"h": h * 2, "skip": h + self.weight}


def renamed(self: Any, h: Tensor, skip: Tensor) -> dict[str, Any]:
    return {"h": h, "again": skip}


def two_names(self: Any, h: Tensor, skip: Tensor, again: Tensor) -> Tensor:
    skip.mul_(2.0)  # seen in again, if it is one object with it
    return (h * again).sum()


def in_a_cache(self: Any, x: Tensor) -> dict[str, Any]:
    skip = x + self.weight
    return {"h": x * self.weight, "skip": skip, "cache": Cache([skip * 1, skip])}


def of_cache(self: Any, h: Tensor, cache: Cache) -> dict[str, Any]:
    cache.states[1].add_(1.0)
    return {"h": h + cache.states[0]}


def buffer(self: Any, x: Tensor) -> dict[str, Any]:
    self.kept = torch.zeros(2048, dtype=torch.int64) if self.kept is None else self.kept
    self.kept.copy_(torch.arange(2048) + int(x.sum()))
    return {"h": x * self.weight, "skip": self.kept}


def of_buffer(self: Any, h: Tensor, skip: Tensor) -> Tensor:
    return (h * self.weight).sum() * (skip[5] % 7)


def nothing(self: Any, x: Tensor) -> dict[str, Any]:
    return {"h": x * self.weight, "skip": None, "numbers": {"n": 3, "text": "a", "big": 2**90}}


def of_nothing(self: Any, h: Tensor, skip: Any, numbers: Any, more: Any = 5.0) -> Tensor:
    assert skip is None and numbers == {"n": 3, "text": "a", "big": 2**90} and more == 5.0
    return (h * self.weight).sum()


def weight_itself(self: Any, x: Tensor) -> dict[str, Any]:
    return {"h": x * self.weight, "skip": self.weight}


def unused(self: Any, h: Tensor, skip: Tensor) -> Tensor:
    return (h * self.weight).sum()


def unused_later(self: Any, x: Tensor) -> dict[str, Any]:
    return {"h": x * self.weight, "skip": x * self.spare}


def last_again(self: Any, h: Tensor, skip: Tensor, again: Tensor) -> Tensor:
    again.mul_(2.0)
    return (h * skip).sum()


CASES: dict[str, tuple[Sequence[Callable[..., Any]], Any]] = {
    "read": ((first, middle, with_skip, last), H),
    "undeclared": ((first, middle, with_skip, last), None),
    "written between": ((first, written, middle, last), H),
    "written by the rank itself": ((first, middle, written, last), H),
    "redefined by a stage that does not declare": (
        (first, redefined, middle, last),
        [H[0], *[None] * 3],
    ),
    "one object under two names": (
        (first, renamed, middle, two_names),
        [H[0], ["h", "again"], ["h"], None],
    ),
    "written under the other name": (
        (first, renamed, middle, last_again),
        [H[0], ["h", "again"], ["h"], None],
    ),
    "in a container of a type of its own": (
        (in_a_cache, of_cache, middle, last),
        [["h", "skip", "cache"], ["h"], ["h"], None],
    ),
    "a buffer that is written to later": ((buffer, middle, middle, of_buffer), H),
    "None and numbers": (
        (nothing, middle, middle, of_nothing),
        [["h", "skip", "numbers"], ["h"], ["h"], None],
    ),
    "a parameter": ((weight_itself, middle, with_skip, last), H),
    "used by nobody": ((unused_later, middle, middle, unused), H),
}


@pytest.mark.parametrize("owners", [LOOP, V, [0, 0, 1, 0], [0, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_trains_as_in_one_process(case: str, owners: list[int]) -> None:
    forwards, outputs = CASES[case]
    assert_same(cut(*forwards, outputs=outputs), owners, X)


def test_a_value_nobody_used_gives_no_gradient() -> None:
    part = cut(unused_later, middle, middle, unused, outputs=H)
    assert_same(part, V, X)
    assert part.stages[0].spare.grad is None


def test_an_alias_that_crosses_once_is_linked_behind_that_boundary() -> None:
    """A residual that is the hidden state at first is no second tensor, and is not sent later."""

    def begin(self: Any, x: Tensor) -> dict[str, Any]:
        h = torch.ones(2048) * (x * self.weight).sum()
        return {"h": h, "skip": h}

    ranks = assert_same(cut(begin, middle_of_ones, middle_of_ones, end_of_ones, outputs=H), V, X)
    assert [sent // 2**14 for sent in ranks.sent[1:]] == [1, 0, 1]


def middle_of_ones(self: Any, h: Tensor) -> dict[str, Any]:
    return {"h": h + self.weight[0]}


def end_of_ones(self: Any, h: Tensor, skip: Tensor) -> Tensor:
    skip.add_(1.0)
    return ((h + skip) * self.weight[1]).sum()


def test_sharing_goes_from_one_link_to_the_next() -> None:
    """``one`` shares with ``both``, ``both`` with ``other``, and only that crosses by itself."""

    def begin(self: Any, x: Tensor) -> dict[str, Any]:
        one, other = x * self.weight, x + self.weight
        return {"h": x * 1, "one": one, "both": [one, other], "other": other}

    def between(self: Any, h: Tensor, other: Tensor) -> dict[str, Any]:
        other.add_(1.0)
        return {"h": h + other}

    def end(self: Any, h: Tensor, one: Tensor, both: list[Tensor]) -> Tensor:
        one.mul_(2.0)
        return (h * both[0] * both[1] * self.weight).sum()

    outputs = [["h", "one", "both", "other"], ["h"], ["h"], None]
    assert_same(cut(begin, between, middle, end, outputs=outputs), V, X)


def test_an_input_that_is_not_given_is_not_linked_either() -> None:
    def begin(self: Any, x: Tensor, mask: Any = None) -> dict[str, Any]:
        return {"h": x * self.weight if mask is None else x}

    def end(self: Any, h: Tensor, mask: Any = 7.0) -> Tensor:
        return (h * self.weight).sum() * (0.0 if mask is None else mask)

    part = cut(begin, middle, middle, end, outputs=[["h"], ["h"], ["h"], None])
    assert plan_of(part, V).links == [Link(0, 3, ("mask",))]
    assert_same(part, V, X)
    assert_same(part, V, {**X, "mask": 2.0})


def test_evaluates_first_between_and_after() -> None:
    part = cut(first, middle, with_skip, last, outputs=H)
    ranks = Ranks(part, V)
    for training in (False, True, False):
        ranks.start()
        ranks.reset(training)
        with torch.set_grad_enabled(training):
            found = ranks.forward(0, X)
        assert found.requires_grad == training
        assert torch.equal(found, pipecodec.run_local(part, **X))
        if training:
            for index in reversed(range(4)):
                ranks.backward(index, 0)


def test_a_value_that_crosses_only_now_and_then_is_refused() -> None:
    """Whether a stage between writes to it has to be the same in each micro-batch."""

    def sometimes(self: Any, h: Tensor, skip: Tensor) -> dict[str, Any]:
        if h.sum().item() > 100:
            skip.add_(1.0)
        return {"h": h}

    part = cut(first, sometimes, middle, last, outputs=H)
    ranks = Ranks(part, V)
    ranks.forward(0, X)
    with pytest.raises(pipecodec.StructureChangedError, match="skip@0"):
        ranks.forward(1, {"x": X["x"] * 100})
    dynamic = Ranks(part, V, dynamic_shape=True)
    for chunk, factor in enumerate((1, 100)):
        given = {"x": X["x"] * factor}
        assert torch.equal(dynamic.forward(chunk, given), pipecodec.run_local(part, **given))


@pytest.mark.parametrize("trained", [False, True])
def test_a_value_is_not_its_makers_memory(trained: bool) -> None:
    """The stage that made it may write into a buffer before the later stage runs."""
    made = torch.arange(4096.0)
    value = made * torch.ones(4096, requires_grad=True) if trained else made.to(torch.int64)
    link = RankLink(Link(0, 2, ("buffer",)), BoundaryOptions())
    expected = value.tolist()
    link.put(0, link.way_out.send(0, [value], torch.zeros(0)))
    value.detach().zero_()
    found, _ = link.way_in.receive(link.take(0))
    assert found["buffer"].tolist() == expected
    found["buffer"].detach().add_(1)
    assert not value.any()


def test_growing_residuals_reach_each_rank_once() -> None:
    """Six stages on two ranks: each residual crosses to the other rank once."""
    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (2, LENGTH))
    batch = {"input_ids": ids, "labels": ids}
    part = pipecodec.partition(BlockResiduals(), kwargs=batch, n_stages=6)
    expected = pipecodec.run_local(part, **batch)["loss"]
    ranks, plain = Ranks(part, LOOP[:2] * 3), Ranks(part, LOOP[:2] * 3, linked=False)
    assert torch.equal(ranks.forward(0, batch)["loss"], expected)
    plain.forward(0, batch)
    state = ids.numel() * 32 * 4
    assert [sent // state for sent in plain.sent[1:]] == [1, 3, 4, 5, 6]
    assert [sent // state for sent in ranks.sent[1:]] == [1, 2, 1, 1, 1]
