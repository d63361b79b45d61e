"""A layer whose weights two tensor-parallel ranks share out, and the same layer in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["SHARDS", "ShardedLayer", "keep_one_shard"]

SHARDS, HIDDEN = 2, 3
"""How many shards there are, and the width of each between the two matrices."""


class ShardedLayer(nn.Module):
    """One matrix cut by columns, then one by rows, whose partial products are summed.

    It has every shard until :func:`keep_one_shard` leaves it one and the others to other ranks;
    both ways the same two partial products are added.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.up, self.down = nn.ModuleDict(), nn.ModuleDict()
        for shard in map(str, range(SHARDS)):
            self.up[shard] = nn.Linear(width, HIDDEN)
            self.down[shard] = nn.Linear(HIDDEN, out, bias=False)
        self.bias = nn.Parameter(torch.randn(out))
        self.group: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.group is not None:
            x = _SumBackward.apply(x, self.group)
        parts = [self.down[shard](torch.tanh(self.up[shard](x))) for shard in self.up]
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if self.group is not None:
            total = _SumForward.apply(total, self.group)
        return total + self.bias


def keep_one_shard(model: nn.Module, shard: int, group: Any) -> None:
    """Leave every sharded layer of ``model`` one shard, and tag its parameters for DeepSpeed."""
    for layer in model.modules():
        if isinstance(layer, ShardedLayer):
            layer.group = group
            for matrices in (layer.up, layer.down):
                for other in set(matrices) - {str(shard)}:
                    del matrices[other]
                for parameter in matrices.parameters():
                    parameter.tensor_model_parallel = True


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
