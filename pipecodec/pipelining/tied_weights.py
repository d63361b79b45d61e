"""Weights that several stages share stay equal: their gradients are summed before each step."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..engine.agree import agree_on_copies
from ..engine.tie_check import checksum, local_part
from ..engine.together import gathered, on_all_ranks
from .own_tensors import own_parameters, partition_names

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["TiedWeights"]


class _Copy:
    """A tied weight as one stage of this rank holds it."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], path: str) -> None:
        self._parameters, self._path = parameters, path

    @property
    def weight(self) -> nn.Parameter:
        """The parameter; ``AttributeError`` if there is none under the path."""
        try:
            return self._parameters[self._path]
        except KeyError:
            raise AttributeError(self._path) from None


class TiedWeights:
    """The tied weights of a pipeline; ``owners`` are the ranks of its stages.

    Made by all ranks of ``group`` together, with the ``stages`` of this one. Raises ``ValueError``,
    the same on every rank, where copies differ in shape, dtype, ``requires_grad`` or values.
    """

    def __init__(
        self,
        part: Partition,
        stages: Mapping[int, nn.Module],
        owners: Sequence[int],
        group: Any,
        device: torch.device,
    ) -> None:
        self.group = group
        self._device = device
        self._parameters = own_parameters(stages.values())
        ties = [sorted(tie, key=lambda place: place[1]) for tie in part.tie_weights.values()]
        self._names = [" = ".join(f"{path} (stage {stage})" for path, stage in tie) for tie in ties]
        self._ranks = [sorted({owners[stage] for _, stage in tie}) for tie in ties]
        parameters = {
            stage: _parameters(
                module, [path for tie in ties for path, owner in tie if owner == stage]
            )
            for stage, module in stages.items()
        }
        held = [
            {
                f"{path} (stage {stage})": _Copy(parameters[stage], path)
                for path, stage in tie
                if stage in stages
            }
            for tie in ties
        ]
        agree_on_copies(held, [[ranks] for ranks in self._ranks], group, values=True)
        self._copies = [_distinct(copy.weight for copy in copies.values()) for copies in held]
        counts = gathered(group, [len(copies) for copies in self._copies]).values()
        self._several = [i for i in range(len(ties)) if sum(each[i] for each in counts) > 1]
        counted_elsewhere = [
            copies[1:] if dist.get_rank() == ranks[0] else copies
            for copies, ranks in zip(self._copies, self._ranks, strict=True)
        ]
        self.counted_elsewhere = _distinct(each for copies in counted_elsewhere for each in copies)
        self._due = self._summed = False
        self._versions: list[int] = []
        if self._several:
            _watched().add(self)

    @property
    def due(self) -> bool:
        """Whether gradients have to be summed before they are used; the same on all ranks."""
        return self._due and bool(self._several)

    def before_batch(self) -> None:
        """Note that gradients have to be summed.

        Raises ``ValueError`` if they would be added to those that were summed already, and, the
        same on every rank, if the copies are not equal any more. A collective call where the last
        batch's gradients were not summed.
        """
        if self._summed and any(
            copy.grad is not None and bool(local_part(copy.grad).count_nonzero())
            for copy in self._own_copies()
        ):
            raise ValueError(
                "the gradients of tied weights were summed, and others would be added to them: "
                "call optimizer.zero_grad() before this step, or sum_tied_gradients once, after "
                "the last step whose gradients count"
            )
        if self.due:
            self._refuse_unequal()
        self._due, self._summed = True, False

    def after_batch(self) -> None:
        """Remember the weights whose gradients these are."""
        self._versions = [copy._version for copy in self._own_copies()]

    @torch.no_grad()
    def sum(self) -> None:
        """Give all copies of a weight the sum of their gradients, equal to the last bit.

        A copy without a gradient counts as zero; if none has one, none gets one. Raises
        ``ValueError``, the same on every rank, if only some copies are frozen.
        """
        if self.due:
            for index in self._with_gradients():
                self._sum_copies(index)
        self._due, self._summed = False, True

    def refuse_step(self, parameters: set[int]) -> None:
        """Raise ``RuntimeError`` if these are parameters of the stages, and sums are due."""
        if self.due and any(id(parameter) in parameters for parameter in self._parameters):
            raise RuntimeError(
                f"the gradients of the tied weight {self._names[self._several[0]]} are not summed "
                f"over its stages: call pipecodec.pipelining.sum_tied_gradients(stages) on all "
                f"ranks after the schedule's step, and before the optimizer's"
            )

    def _own_copies(self) -> list[nn.Parameter]:
        return [copy for index in self._several for copy in self._copies[index]]

    def _refuse_unequal(self) -> None:
        """Compare the copies where some were written to; an optimizer may work on others."""
        changed = [copy._version for copy in self._own_copies()] != self._versions
        if not any(gathered(self.group, changed).values()):
            return
        sums = [
            {int(checksum(local_part(copy))) for copy in self._copies[index]}
            for index in self._several
        ]
        everyone = gathered(self.group, sums).values()
        for index, each in zip(self._several, zip(*everyone, strict=True), strict=True):
            if len(set().union(*each)) > 1:
                raise on_all_ranks(
                    ValueError(
                        f"the copies of the tied weight {self._names[index]} are not equal any "
                        f"more: they were changed after a step whose gradients were not summed; "
                        f"call pipecodec.pipelining.sum_tied_gradients(stages) on all ranks "
                        f"between schedule.step and the change"
                    )
                )

    def _with_gradients(self) -> list[int]:
        """Return the weights of this rank of which some copy, on any rank, has a gradient."""
        copies = [self._copies[index] for index in self._several]
        present = [sum(copy.grad is not None for copy in each) for each in copies]
        trained = [sum(copy.requires_grad for copy in each) for each in copies]
        frozen = [sum(not copy.requires_grad for copy in each) for each in copies]
        counts = torch.tensor([present, trained, frozen], device=self._device)
        dist.all_reduce(counts, group=self.group)
        found = []
        for index, count, some, others in zip(self._several, *counts.tolist(), strict=True):
            if some and others:
                raise on_all_ranks(
                    ValueError(
                        f"some copies of the tied weight {self._names[index]} are frozen "
                        f"(requires_grad=False), and others are not; freeze all of them or none"
                    )
                )
            if count and self._copies[index]:
                found.append(index)
        return found

    def _sum_copies(self, index: int) -> None:
        copies = self._copies[index]
        total: torch.Tensor | None = None
        for copy in copies:
            if copy.grad is None:
                continue
            own = copy.grad.to_dense() if copy.grad.is_sparse else local_part(copy.grad)
            if total is None:
                # A gradient may have any strides, and the ranks add memory.
                total = own.to(copy.dtype).clone(memory_format=torch.contiguous_format)
            else:
                total.add_(own)
        if total is None:
            total = torch.zeros_like(local_part(copies[0]), memory_format=torch.contiguous_format)
        total = self._over_ranks(total, self._ranks[index])
        for copy in copies:
            if copy.grad is None or copy.grad.is_sparse:
                copy.grad = torch.zeros_like(copy)
            local_part(copy.grad).copy_(total)

    def _over_ranks(self, own: torch.Tensor, ranks: Sequence[int]) -> torch.Tensor:
        """Return the sum of these ranks' tensors, added in one order everywhere.

        In messages: a group of these ranks would need all other ranks of the world to make it.
        """
        if len(ranks) == 1:
            return own
        me = dist.get_rank()
        parts = {rank: own if rank == me else torch.empty_like(own) for rank in ranks}
        others = [rank for rank in ranks if rank != me]
        ops = [dist.P2POp(dist.isend, own, rank, self.group) for rank in others]
        ops += [dist.P2POp(dist.irecv, parts[rank], rank, self.group) for rank in others]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        first, *rest = (parts[rank] for rank in ranks)
        total = first.clone()
        for part in rest:
            total += part
        return total


def _parameters(module: nn.Module, known: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return a stage's parameters by their names in the partition, which knows some."""
    named = dict(module.named_parameters(remove_duplicate=False))
    names = partition_names(module, named, known)
    return {names[path]: parameter for path, parameter in named.items()}


def _distinct(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return list({id(parameter): parameter for parameter in parameters}.values())


@functools.cache
def _watched() -> weakref.WeakSet[TiedWeights]:
    """Return the set of those that every optimizer asks before it steps.

    The hook stays: torch goes through its list of hooks while they run.
    """
    watched: weakref.WeakSet[TiedWeights] = weakref.WeakSet()

    def look(optimizer: Any, args: Any, kwargs: Any) -> None:
        if any(ties.due for ties in watched):
            parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for ties in watched:
                ties.refuse_step(parameters)

    register_optimizer_step_pre_hook(look)
    return watched
