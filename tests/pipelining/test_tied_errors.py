"""Tied weights that would not stay equal are an error, on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import Schedule1F1B

import pipecodec
from pipecodec.demo.launch import Rank
from tests.distributed.harness import values

from .tied_training import Case, batch_of, loss_of, tied

CASE = Case(micro_batches=3)


class Training:
    """A pipeline of three stages, the first and last of which share a weight."""

    def __init__(self, rank: Rank, change: Callable[[Rank, nn.Module], None] | None = None) -> None:
        self.rank = rank
        part = tied(CASE)
        self.module = part.stages[rank.rank]
        if change is not None:
            change(rank, self.module)
        self.stage = pipecodec.pipelining.build_stage(part, rank.rank)
        loss = pipecodec.pipelining.loss(loss_of)
        self.schedule = Schedule1F1B(self.stage, CASE.micro_batches, loss_fn=loss)
        self.optimizer = torch.optim.AdamW(self.module.parameters())

    def backward(self) -> None:
        ids, target = batch_of(0)
        self.schedule.step(*([ids] if self.rank.rank == 0 else []), target=target)

    def sum(self) -> None:
        pipecodec.pipelining.sum_tied_gradients(self.stage)


def not_summed_before_the_optimizer(rank: Rank) -> None:
    training = Training(rank)
    before = [p.detach().clone() for p in training.module.parameters()]
    training.backward()
    try:
        training.optimizer.step()
    finally:
        assert all(map(torch.equal, before, training.module.parameters()))


def not_summed_before_clipping(rank: Rank) -> None:
    training = Training(rank)
    training.backward()
    pipecodec.pipelining.clip_grad_norm_(training.stage, 1.0)


def not_summed_and_stepped_in_the_backward_pass(rank: Rank) -> None:
    def step(parameter: Any) -> None:
        optimizers[parameter].step()

    training = Training(rank)
    optimizers = {p: torch.optim.SGD([p]) for p in training.module.parameters()}
    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(step)
    training.backward()


def not_summed_and_stepped_on_other_tensors(rank: Rank) -> None:
    training = Training(rank)
    training.backward()
    if rank.rank != 1:
        with torch.no_grad():
            training.module.weight -= training.module.weight.grad
    training.optimizer.zero_grad()
    training.backward()


def values_differ(rank: Rank) -> None:
    def change(rank: Rank, module: nn.Module) -> None:
        if rank.rank == 2:
            module.weight.data[0, 0] += 1

    Training(rank, change).backward()


def some_frozen_later(rank: Rank) -> None:
    training = Training(rank)
    training.backward()
    if rank.rank == 0:
        training.module.weight.requires_grad_(False)
    training.sum()


def renamed(rank: Rank) -> None:
    def change(rank: Rank, module: nn.Module) -> None:
        if rank.rank == 0:
            module.other = module.weight
            del module.weight

    Training(rank, change).backward()


def summed_and_added_to(rank: Rank) -> None:
    training = Training(rank)
    training.backward()
    training.sum()
    training.backward()


ERRORS = {
    not_summed_before_the_optimizer: "RuntimeError: the gradients of the tied weight weight "
    "(stage 0) = weight (stage 2) are not summed over its stages",
    not_summed_before_clipping: "RuntimeError: the gradients of tied weights are not summed",
    not_summed_and_stepped_on_other_tensors: "ValueError: the copies of the tied weight weight "
    "(stage 0) = weight (stage 2) are not equal any more",
    values_differ: "ValueError: the copies of a tied weight differ in their values",
    some_frozen_later: "ValueError: some copies of the tied weight weight (stage 0) = weight "
    "(stage 2) are frozen",
    renamed: "ValueError: a tied weight has no parameter weight (stage 0) on rank 0",
}

LAST = {
    summed_and_added_to: "the gradients of tied weights were summed, and others would be added",
    not_summed_and_stepped_in_the_backward_pass: "are not summed over its stages",
}
"""Those which one rank finds, so that its communication ends."""


def errors(rank: Rank, cases: list[Callable[[Rank], None]]) -> list[str]:
    dist.init_process_group(rank.backend)
    found = []
    for case in cases:
        rank.say(case.__name__)
        try:
            case(rank)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        else:
            found.append("no error")
    return found


def test_all_ranks_raise_by_themselves() -> None:
    for found in values(errors, 3, list(ERRORS)):
        for text, (case, expected) in zip(found, ERRORS.items(), strict=True):
            assert text.startswith(expected), case


def test_all_ranks_are_told() -> None:
    for case, expected in LAST.items():
        for (text,) in values(errors, 3, [case]):
            assert expected in text, case
