"""A parameter that no micro-batch of a step used, on no replica, has no gradient in that step.

In one process ``.grad`` is then None, and an optimizer leaves the parameter alone: neither decay
nor momentum moves it. DeepSpeed's engine makes zeros of None before it reduces, and ZeRO reduces
those parameters only that have a gradient, whatever the other replicas have. So before any
reduction the ranks that hold one parameter agree on whether it was used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from .accumulated import NONE, Accumulated, accumulated
from .tied_module import TiedWeights

__all__ = ["Presence", "clipping_on_idle_ranks"]


class Presence:
    """The parameters of an engine's module that nobody used in the current step.

    A collective call makes one. ``unused`` holds those parameters once ``agree`` was called, until
    it is called again.
    """

    def __init__(self, engine: Any) -> None:
        self.gradients: Accumulated = accumulated(engine)
        self.unused: set[torch.Tensor] = set()
        self._module = engine.module
        self._replicas, self._ties = _on_the_host(engine)
        self._talks = self._replicas is not None or bool(self._ties)

    def agree(self) -> None:
        """Find the parameters unused on all ranks, and give zeros to those that others used.

        To be called before gradients are reduced, tied ones included. A collective call of the
        ranks that hold the same stage, and of those that hold one tied weight: one byte for each
        parameter. Nothing is sent where there is one replica and no tie.
        """
        parameters = list(self._module.parameters())
        mine = [self.gradients.kind(parameter) for parameter in parameters]
        everyone = self._largest(parameters, mine) if self._talks else mine
        self.unused = {p for p, kind in zip(parameters, everyone, strict=True) if kind == NONE}
        for parameter, kind, own in zip(parameters, everyone, mine, strict=True):
            if kind != own:
                self.gradients.fill(parameter, kind)

    def drop_unused(self) -> None:
        """Let unused parameters have no gradient, from the reduction to the step.

        For an optimizer that steps on the parameters themselves: fp32 without ZeRO.
        """
        for parameter in self.unused:
            self.gradients.drop(parameter)

    def _largest(self, parameters: list[torch.Tensor], mine: list[int]) -> list[int]:
        kinds = torch.tensor(mine, dtype=torch.uint8)
        if self._replicas is not None:
            dist.all_reduce(kinds, dist.ReduceOp.MAX, self._replicas)
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        for group, copies in self._ties:
            tied = [places[id(copy.weight)] for copy in copies]
            shared = kinds[tied]
            dist.all_reduce(shared, dist.ReduceOp.MAX, group)
            kinds[tied] = shared
        found: list[int] = kinds.tolist()
        return found


def clipping_on_idle_ranks(engine: Any) -> Callable[[], None]:
    """Return a function that replaces this engine's ``clip_fp32_gradients``.

    Gradients are clipped where a rank has none in a step: DeepSpeed fails there.
    """
    clip = engine.clip_fp32_gradients

    def clip_fp32_gradients() -> None:
        parameters = list(engine.module.parameters())
        if any(parameter.grad is not None for parameter in parameters):
            clip()
            return
        parameters[0].grad = torch.zeros_like(parameters[0])
        clip()
        parameters[0].grad = None

    return clip_fp32_gradients


def _on_the_host(engine: Any) -> tuple[Any, list[tuple[Any, list[Any]]]]:
    """Return the group of this stage's replicas, and the groups of tied copies with the copies.

    None for a single replica. Who has a gradient is known on the host, so the groups talk there.
    """
    module, rank = engine.module, dist.get_rank()
    ties: dict[tuple[int, ...], list[Any]] = {}
    holders = []
    if isinstance(module, TiedWeights):
        holders = [tuple(ranks) for tie in module.tied_ranks for ranks in tie if len(ranks) > 1]
        for comm in module.tied_comms.values():
            ties.setdefault(tuple(comm["ranks"]), []).append(comm)
    replicas = engine.grid.get_data_parallel_group()
    groups = {ranks: comms[0]["group"] for ranks, comms in ties.items()}
    if engine.device.type != "cpu" or dist.get_backend(replicas) != "gloo":
        stages = [tuple(ranks) for ranks in engine.grid.dp_groups]
        groups = {
            ranks: dist.new_group(ranks, backend="gloo")  # by every rank, in one order
            for ranks in dict.fromkeys([*stages, *holders])
        }
        replicas = next(groups[ranks] for ranks in stages if rank in ranks)
    return (
        replicas if len(engine.grid.dp_group) > 1 else None,
        [(groups[ranks], [comm["module"] for comm in comms]) for ranks, comms in ties.items()],
    )
