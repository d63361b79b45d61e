"""The stages of a partition with the origin's algorithm at their boundaries."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.contenders import origin
from pipecodec import Partition
from pipecodec.stages.stage import Stage, bind_inputs

__all__ = ["OriginCut"]


class OriginCut(nn.Module):
    """Stage ``number`` of ``part``: live values become tensors and text, and values again.

    The stages and the lists of live values are those of ``pipecodec.partition``, which makes masks
    and rotary tables in each stage; the origin would send these too.
    """

    def __init__(self, part: Partition, number: int) -> None:
        super().__init__()
        self.mod = part.stages[number]
        self.part, self.number = part, number
        self.last = number == len(part.stages) - 1
        self.names = Stage(
            part.liveness, part.stage_id_2_arg_names, number, outputs=part.outputs[number]
        )
        self.send, self.receive = origin.make()

    def forward(self, *args: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], tuple):
            args = args[0]
        if self.number:
            values = list(self.receive(args))
        else:
            values = bind_inputs(self.part.input_names, args, {})
        env = self.names.bind(values)
        positional, keyword = self.names.arguments(env)
        output = self.mod(*positional, **keyword)
        if self.last:
            return output
        self.names.name_outputs(env, output)
        return self.send(self.names.collect(env, self.part.liveness[self.number + 1]))
