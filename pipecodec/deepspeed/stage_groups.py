"""Process groups that a stage's own layers make in ``deepspeed.initialize``, as MoE layers do."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed import distributed_c10d

from ..engine.process_groups import align_group_names

__all__ = ["name_groups_by_stage"]

_APART = 1_000_000
"""A number of groups that no stage reaches."""


def name_groups_by_stage(module: Any) -> None:
    """Let ``deepspeed.initialize`` make a stage's own groups while no other stage uses their names.

    It calls ``set_deepspeed_parallelism`` of each module that has it, in the order of
    ``named_modules``: with this, first that of the pipeline ``module``, last that of a child
    without parameters. The groups that stages make in between differ, and would share one name.
    """
    topology = module.topology()
    ranks = topology.get_axis_list("pipe", module.stage_id)
    contiguous = ranks == list(range(ranks[0], ranks[0] + len(ranks)))

    def begin(*_: Any) -> None:
        # DeepSpeed takes a stage's ranks to be contiguous; where they are not, its groups of
        # experts span stages, which then have to agree on names.
        distributed_c10d._world.group_count += _APART * module.stage_id * contiguous

    module.set_deepspeed_parallelism = begin
    module.add_module("group_names", _End())


class _End(nn.Module):
    def set_deepspeed_parallelism(self, *_: Any) -> None:
        align_group_names()
