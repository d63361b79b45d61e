"""A pipeline module that keeps tied weights of several stages equal on stock DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .agree import agree_on_copies
from .ties import Ties, analyze_tie_ranks

__all__ = ["TiedCopy", "TiedWeights"]


class TiedCopy:
    """This rank's copy of a tied weight, looked up anew whenever it is asked for.

    The engine takes it for a module with one parameter. Being none, it adds no names and no
    state, and a parameter that is replaced in its stage stays tied.
    """

    def __init__(self, stage: nn.Module, path: str) -> None:
        self._stage, self._path = stage, path

    @property
    def weight(self) -> nn.Parameter:
        """The parameter that the stage has under the path now."""
        return self._stage.get_parameter(self._path)

    @weight.setter
    def weight(self, parameter: nn.Parameter) -> None:
        owner, _, name = self._path.rpartition(".")
        setattr(self._stage.get_submodule(owner), name, parameter)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the engine counts."""
        if self.weight.requires_grad:
            yield self.weight


class TiedWeights:
    """What a class derived from this and DeepSpeed's ``PipelineModule`` does about ``ties``.

    Each tie lists the (parameter path, stage id) pairs that are one weight; all ranks give the
    same. Copies on one rank become one parameter. The others are compared when the module is
    built, which raises ``ValueError`` on every rank where they differ in shape, dtype or
    ``requires_grad``, and get the value of the lowest rank. All but that one are tagged
    ``ds_pipe_replicated``, so that the norm of all gradients counts the weight once.

    The engine then sums the gradients of the copies in its stock order, before it averages those
    of data-parallel replicas: from three replicas on, where sums of floating-point numbers depend
    on their order, copies drift apart by rounding, and a step in which one copy has no gradient
    hangs. ``sum_tied_gradients`` corrects both, and ``pipecodec.deepspeed.initialize`` calls it.
    """

    def __init__(self, *args: Any, ties: Ties, **kwargs: Any) -> None:
        self._ties = ties
        super().__init__(*args, **kwargs)

    def _index_tied_modules(self: Any) -> dict[str, dict[str, Any]]:
        """Return the groups that the engine ties, keyed in one order on all ranks.

        Called once the stages are built and on their device, before copies get their value.
        """
        owners = [[(path, self.stage_owner(stage)) for path, stage in tie] for tie in self._ties]
        fibres, _ = analyze_tie_ranks(
            [{("", owner) for _, owner in tie} for tie in owners], self._topo
        )
        held = [self._held(tie) for tie in self._ties]
        agree_on_copies(held, fibres)
        groups: dict[tuple[int, ...], Any] = {}
        comms = {}
        for index, (copies, ranks_of_fibres) in enumerate(zip(held, fibres, strict=True)):
            for ranks in map(tuple, ranks_of_fibres):
                if len(ranks) > 1 and ranks not in groups:
                    groups[ranks] = dist.new_group(ranks)  # by every rank, in one order
                if self.global_rank not in ranks:
                    continue
                first, *others = copies.values()
                for other in others:
                    other.weight = first.weight
                if len(ranks) > 1:
                    first.weight.ds_pipe_replicated = self.global_rank != ranks[0]
                    comms[f"tie {index}"] = {
                        "ranks": list(ranks),
                        "group": groups[ranks],
                        "weight_attr": ["weight"],
                        "module": first,
                        "trained": first.weight.requires_grad,
                    }
        return comms

    def _held(self: Any, tie: list[tuple[str, int]]) -> dict[str, TiedCopy]:
        """Return this rank's copies by what messages call them."""
        return {
            f"{path} (stage {stage})": TiedCopy(self._layer_specs[stage].mod, path)
            for path, stage in tie
            if self.stage_owner(stage) == self.stage_id
        }

    def get_tied_weights_and_groups(self: Any) -> list[tuple[torch.Tensor, Any]]:
        """Return the weights whose gradients the engine sums, each with its process group.

        Those that required a gradient when the module was built, on every rank alike.
        """
        return [
            (comm["module"].weight, comm["group"])
            for comm in self.tied_comms.values()
            if comm["trained"]
        ]
