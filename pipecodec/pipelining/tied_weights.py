"""Weights that several stages share stay equal: their gradients are summed before each step."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..engine.agree import agree_on_copies
from ..engine.tie_check import local_part

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["TiedWeights", "own_parameters", "own_path", "unwrapped"]

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Names under which torch's wrappers (compile, checkpoint, FSDP) hold their modules."""


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
    """The tied weights of this rank's stages, of which ``owners`` are the ranks.

    Made by all ranks of ``group`` together. Raises ``ValueError``, the same on every rank, where
    copies differ in shape, dtype, ``requires_grad`` or values.
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
        parameters = {stage: own_parameters(module) for stage, module in stages.items()}
        ties = [sorted(tie, key=lambda place: place[1]) for tie in part.tie_weights.values()]
        self._ranks = [sorted({owners[stage] for _, stage in tie}) for tie in ties]
        held = [
            {
                f"{path} (stage {stage})": _Copy(parameters[stage], path)
                for path, stage in tie
                if stage in stages
            }
            for tie in ties
        ]
        agree_on_copies(held, [[ranks] for ranks in self._ranks], group, values=True)
        groups: dict[tuple[int, ...], Any] = {}
        for ranks in map(tuple, self._ranks):
            if len(ranks) > 1 and dist.get_rank() in ranks and ranks not in groups:
                groups[ranks] = dist.new_group(list(ranks), use_local_synchronization=True)
        self._groups = [groups.get(tuple(ranks)) for ranks in self._ranks]
        self._copies = [_distinct(copy.weight for copy in copies.values()) for copies in held]
        self._names = [next(iter(copies), "") for copies in held]
        counted_elsewhere = [
            copies[1:] if dist.get_rank() == ranks[0] else copies
            for copies, ranks in zip(self._copies, self._ranks, strict=True)
        ]
        self.counted_elsewhere = _distinct(each for copies in counted_elsewhere for each in copies)
        self._due = self._summed = False
        if any(map(self._has_several, range(len(ties)))):
            _refuse_steps_without_sums(self)

    def before_batch(self) -> None:
        """Raise ``ValueError`` if gradients would be added to those that were summed already."""
        if self._summed and any(
            copy.grad is not None and bool(local_part(copy.grad).count_nonzero())
            for index, copies in enumerate(self._copies)
            if self._has_several(index)
            for copy in copies
        ):
            raise ValueError(
                "the gradients of tied weights were summed, and others would be added to them: "
                "call optimizer.zero_grad() before this step, or sum_tied_gradients once, after "
                "the last step whose gradients count"
            )

    def after_batch(self) -> None:
        """Note that gradients have to be summed."""
        self._due, self._summed = True, False

    def sum(self) -> None:
        """Give all copies of a weight the sum of their gradients, equal to the last bit.

        A copy without a gradient counts as zero; if none has one, none gets one.
        """
        several = [index for index in range(len(self._ranks)) if self._has_several(index)]
        for index in several:
            for copy in self._copies[index]:
                if copy.grad is not None and copy.grad.is_sparse:
                    copy.grad = copy.grad.to_dense()
        if self._due and several:
            for index in self._with_gradients():
                self._sum_copies(index)
        self._due, self._summed = False, True

    def refuse_step(self, parameters: set[int]) -> None:
        """Raise ``RuntimeError`` if one of these parameters is tied and was not summed."""
        if not self._due:
            return
        for index, copies in enumerate(self._copies):
            if self._has_several(index) and any(id(copy) in parameters for copy in copies):
                raise RuntimeError(
                    f"the gradients of the tied weight {self._names[index]} are not summed over "
                    f"its stages: call pipecodec.pipelining.sum_tied_gradients(stages) on all "
                    f"ranks after the schedule's step, and before the optimizer's"
                )

    @property
    def due(self) -> bool:
        """Whether gradients have to be summed before they are used."""
        return self._due and any(map(self._has_several, range(len(self._ranks))))

    def _has_several(self, index: int) -> bool:
        return len(self._ranks[index]) > 1 or len(self._copies[index]) > 1

    def _with_gradients(self) -> list[int]:
        """Return the weights of this rank of which some copy, on any rank, has a gradient."""
        present = [float(any(c.grad is not None for c in copies)) for copies in self._copies]
        flags = torch.tensor(present, device=self._device)
        if any(len(ranks) > 1 for ranks in self._ranks):
            dist.all_reduce(flags, group=self.group)
        return [
            index
            for index, flag in enumerate(flags.tolist())
            if flag and self._copies[index] and self._copies[index][0].requires_grad
        ]

    def _sum_copies(self, index: int) -> None:
        copies = self._copies[index]
        total: torch.Tensor | None = None
        for copy in copies:
            if copy.grad is not None:
                total = copy.grad.clone() if total is None else total.add_(copy.grad)
        if total is None:
            total = torch.zeros_like(copies[0])
        if self._groups[index] is not None:
            dist.all_reduce(local_part(total), group=self._groups[index])
        for copy in copies:
            if copy.grad is None:
                copy.grad = total.clone()
            else:
                copy.grad.copy_(total)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return a stage's parameters by their paths in the partition."""
    named = unwrapped(module).named_parameters(remove_duplicate=False)
    return {own_path(path): parameter for path, parameter in named}


def own_path(path: str) -> str:
    """Return the path that a parameter had before modules inside of its stage were wrapped."""
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that DDP, or a function that compiles, was given."""
    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def _distinct(parameters: Any) -> list[nn.Parameter]:
    return list({id(parameter): parameter for parameter in parameters}.values())


def _refuse_steps_without_sums(ties: TiedWeights) -> None:
    """Let every optimizer look at its tied weights before it steps."""
    known = weakref.ref(ties)

    def look(optimizer: Any, args: Any, kwargs: Any) -> None:
        ties = known()
        if ties is None:
            handle.remove()
        else:
            ties.refuse_step({id(p) for group in optimizer.param_groups for p in group["params"]})

    handle = register_optimizer_step_pre_hook(look)
