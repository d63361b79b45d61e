"""A pipeline module that keeps tied weights of several stages equal on stock DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..engine.agree import agree_on_copies
from ..engine.tie_check import check_ties
from ..engine.tied_copy import TiedCopy
from ..engine.ties import Ties, analyze_tie_ranks

__all__ = ["TiedWeights", "tie_check"]


class TiedWeights:
    """Ties weights in a class derived from this and from DeepSpeed's ``PipelineModule``.

    Each tie lists the (parameter path, stage id) pairs that are one weight; all ranks give the
    same. Copies on one rank become one parameter. The others are compared when the module is
    built, which raises ``ValueError`` on every rank where they differ in shape, dtype or
    ``requires_grad``, and get the value of the lowest rank. All but that one are tagged
    ``ds_pipe_replicated``, so that the norm of all gradients counts the weight once.

    The engine then sums the gradients of the copies in its stock order, before it averages those
    of data-parallel replicas: from three replicas on, where sums of floating-point numbers depend
    on their order, copies drift apart by rounding, and a step in which one copy has no gradient
    hangs. ``sum_tied_gradients`` corrects both, and ``pipecodec.deepspeed.initialize`` calls it.

    ``tied_ranks`` lists for each tie the groups of ranks that hold one weight together.
    """

    def __init__(self, *args: Any, ties: Ties, **kwargs: Any) -> None:
        self.ties = ties
        self._groups: dict[tuple[int, ...], Any] = {}
        super().__init__(*args, **kwargs)

    def retie(self: Any) -> None:
        """Tie anew, after parameters were replaced under their paths.

        All ranks call it together, before an engine is made: an optimizer trains the parameters
        that it was given. Raises ``ValueError`` as building the module does.
        """
        self.tied_comms = self._index_tied_modules()
        self._synchronize_tied_weights()

    def _synchronize_tied_weights(self) -> None:
        with torch.no_grad():  # else torch warns of gradients through the broadcast
            super()._synchronize_tied_weights()  # type: ignore[misc]

    def _index_tied_modules(self: Any) -> dict[str, dict[str, Any]]:
        """Return the groups that the engine ties, keyed in one order on all ranks.

        Called once the stages are built and on their device, before copies get their value.
        """
        owners = [[("", self.stage_owner(stage)) for _, stage in tie] for tie in self.ties]
        self.tied_ranks, _ = analyze_tie_ranks([set(tie) for tie in owners], self._topo)
        self._held = [self._copies_here(tie) for tie in self.ties]
        agree_on_copies(
            [{copy.name: copy for copy in copies} for copies in self._held], self.tied_ranks
        )
        comms = {}
        for index, (copies, fibres) in enumerate(zip(self._held, self.tied_ranks, strict=True)):
            for ranks in map(tuple, fibres):
                if len(ranks) > 1 and ranks not in self._groups:
                    self._groups[ranks] = dist.new_group(ranks)  # by every rank, in one order
                if self.global_rank not in ranks:
                    continue
                first = copies[0]
                weight = first.weight
                for copy in copies:
                    copy.bind(weight)
                if len(ranks) > 1:
                    if weight.requires_grad:
                        weight.register_post_accumulate_grad_hook(_make_dense)
                    weight.ds_pipe_replicated = self.global_rank != ranks[0]
                    comms[f"tie {index}"] = {
                        "ranks": list(ranks),
                        "group": self._groups[ranks],
                        "weight_attr": ["weight"],
                        "module": first,
                        "trained": weight.requires_grad,
                    }
        return comms

    def _copies_here(self: Any, tie: list[tuple[str, int]]) -> list[TiedCopy]:
        return [
            TiedCopy(self._layer_specs[stage].mod, stage, path)
            for path, stage in tie
            if self.stage_owner(stage) == self.stage_id
        ]

    def held_weights(self: Any) -> dict[int, nn.Parameter]:
        """Return the tied weights that this rank has, by the index of the tie."""
        return {index: copies[0].weight for index, copies in enumerate(self._held) if copies}

    def copies_by_rank(self: Any) -> list[list[dict[int, str]]]:
        """Return for each tie the groups of ranks that hold one weight: names of copies by rank."""
        return [
            [{rank: self._name_of_copy(tie, rank) for rank in ranks} for ranks in groups]
            for tie, groups in zip(self.ties, self.tied_ranks, strict=True)
        ]

    def _name_of_copy(self: Any, tie: list[tuple[str, int]], rank: int) -> str:
        pipe = self.topology().get_coord(rank).pipe
        path, stage = next(pair for pair in tie if self.stage_owner(pair[1]) == pipe)
        return f"{path} (stage {stage})"

    def check_replaced(self: Any) -> None:
        """Raise ``ValueError`` if a stage no longer has the parameter that was tied."""
        for copies in self._held:
            for copy in copies:
                copy.check()

    def get_tied_weights_and_groups(self: Any) -> list[tuple[torch.Tensor, Any]]:
        """Return the weights whose gradients the engine sums, each with its process group.

        Those that required a gradient when the module was built, on every rank alike.
        """
        self.check_replaced()
        return [
            (comm["module"].weight, comm["group"])
            for comm in self.tied_comms.values()
            if comm["trained"]
        ]


def tie_check(engine: Any, every: int) -> Callable[[], None]:
    """Return a check that raises after a step of this engine if copies of a tied weight differ.

    It looks after every so many steps, never if ``every`` is 0. All ranks give the same number.
    """
    module = engine.module

    def check() -> None:
        step = engine.global_steps
        if every and step % every == 0:
            device = next(module.parameters()).device
            check_ties(module.held_weights(), module.copies_by_rank(), step, device)

    return check


def _make_dense(weight: torch.Tensor) -> None:
    """Turn an embedding's sparse gradient into a dense one, which all copies can sum.

    The engine would take it for one that other stages lack, or fail to put it into its buffers.
    """
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()
