"""A stage in the origin's plumbing: names for values, and all of them as plain tensors.

Written anew after its listing, step by step; no step is left out, and none is mended. Its analysis
of live values is not in the listing: the lists are those of ``pipecodec.liveness``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import origin
from pipecodec.legacy import flat_and_name_tensor_list
from pipecodec.liveness import Liveness, analyze_graph

__all__ = ["OriginStage", "stages_of"]


class OriginStage(nn.Module):
    """Wraps stage ``stage_id`` of a split graph for DeepSpeed's own engine.

    ``liveness[k]`` names the values that enter stage k in their order, ``arg_names[k]`` those that
    it takes as arguments; ``arg_names[-1]`` are the model's inputs.
    """

    def __init__(
        self,
        mod: nn.Module,
        stage_id: int,
        total_stages: int,
        liveness: Sequence[Sequence[str]],
        arg_names: Mapping[int, Sequence[str]],
    ) -> None:
        super().__init__()
        self.mod = mod
        self.stage_id = stage_id
        self.last = stage_id == total_stages - 1
        self.liveness = liveness
        self.arg_names = arg_names
        self.send, self.receive = origin.make()

    def forward(self, *args: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], (list, tuple)):
            args = tuple(args[0])
        if not any(isinstance(arg, torch.Tensor) for arg in args):
            raise ValueError("no tensor among the inputs tells the device")
        own = self.arg_names[self.stage_id]
        live = self.liveness[self.stage_id]
        if self.stage_id == 0:
            values: list[Any] = []
            for arg in args:
                values.extend(arg if isinstance(arg, tuple) else [arg])
            given = [name for name in self.arg_names[-1] if name in own]
        else:
            values, given = list(self.receive(args)), list(live)
        if len(values) != len(live):
            raise ValueError(f"{len(values)} values, {len(live)} names")
        named = dict(zip(live, values, strict=True))
        output = self.mod(*(values[given.index(name)] for name in own))
        if self.last:
            return output
        named.update(flat_and_name_tensor_list(output, f"submod_{self.stage_id}", ""))
        return self.send([named[name] for name in self.liveness[self.stage_id + 1]])


def stages_of(pipe: Any) -> list[nn.Module]:
    """Return the stages of a ``Pipe``, wrapped."""
    flow: Liveness = analyze_graph(pipe.split_gm)
    names: dict[int, list[str]] = {}
    for k, taken in flow.stage_id_2_arg_names.items():
        names[k] = [str(name) for name in taken]
    count = pipe.num_stages
    return [
        OriginStage(pipe.get_stage_module(k), k, count, flow.liveness, names) for k in range(count)
    ]
