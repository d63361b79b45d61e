"""Gradient modes, autocast, checkpoints, autograd functions and torch.func in glue."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .case import Base, case


@case()
class NoGradAndAutocast(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x.softmax(-1)
        with torch.autocast("cpu", torch.bfloat16):
            z = x @ self.head.weight
        return x + y + z.float()


@case()
class AutocastOverLayers(Base):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            for layer in self.layers:
                x = layer(x)
            with torch.autocast("cpu", enabled=False):
                x = self.head(x.float())
        return x


@case()
class NoGradOverLayers(Base):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.no_grad():
            x = self.layers[1](self.layers[0](x))
        torch.set_grad_enabled(True)
        return self.head(self.layers[3](self.layers[2](x)))


@case()
class InferenceModeInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            y = x * 2
        return x + y.clone()


@case()
class SetGradEnabled(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(not self.training):
            y = x.exp()
        return x + y


@torch.no_grad()
def fixed(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(-1)


@case()
class NoGradDecorator(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return x + fixed(x)


@case()
class DefaultDtype(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        try:
            return x + torch.ones(8).float() * torch.rand(1).float()
        finally:
            torch.set_default_dtype(torch.float32)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 3


class Several(torch.autograd.Function):
    """Several outputs, one of which has no gradient, and arguments that are no tensors."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, name: str, size: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.scale = scale
        order = x.argsort(-1)
        ctx.mark_non_differentiable(order)
        return x * scale, order, x.sum(0)

    @staticmethod
    def backward(ctx: Any, first: Any, order: Any, last: Any) -> Any:
        (x,) = ctx.saved_tensors
        return first * ctx.scale + last * x.cos(), None, None, None


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


@case()
class AutogradFunction(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return Twice.apply(x)


@case()
class AutogradFunctionOfSeveral(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        y, order, total = Several.apply(x, 1.5, "name", x.shape)
        return y + order + total


@case()
class AutogradFunctionInPlace(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return InPlace.apply(x * 1.0)


@case()
class VmapInGlue(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: row * 2 + row.sum())(x)


@case()
class VmapInALayer(Base):
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.vmap(super().forward)(x)

    layer = Layer


@case(refused=r"layers\.0 reads mul at \S*\.py:\d+, but not through its arguments")
class FunctionalCall(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            weights = {name: p * 2 for name, p in layer.named_parameters()}
            x = torch.func.functional_call(layer, weights, (x,))
        return self.head(x)


@case()
class Checkpointed(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return self.head(x)


@case()
class ReentrantCheckpoint(Base):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            x = checkpoint(layer, x, use_reentrant=True)
        return self.head(x)


@case()
class CheckpointedGlue(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = checkpoint(lambda y, layer=layer: layer(y).tanh() * 2, x, use_reentrant=False)
        return self.head(x)


@case()
class CheckpointedDropout(Base):
    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = checkpoint(lambda y, layer=layer: F.dropout(layer(y), 0.5), x, use_reentrant=False)
        return self.head(x)


@case()
class CheckpointSequential(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return self.head(checkpoint_sequential(self.layers, 2, x, use_reentrant=False))


@case()
class TorchOps(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.relu(x) + torch.ops.aten.add.Tensor(x, x, alpha=x.shape[1])


@case()
class Scripted(Base):
    @staticmethod
    def layer(a: int, b: int) -> nn.Module:
        return torch.jit.script(nn.Linear(a, b))


@case()
class Quantized(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        q = torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8)
        return x + q.dequantize()


@case()
class Attention(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        q = x.view(1, x.shape[0], 2, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q, dropout_p=0.2 if self.training else 0.0)
        return y.transpose(1, 2).reshape(x.shape)


@case()
class DeviceContext(Base):
    def _glue(self, x: torch.Tensor) -> torch.Tensor:
        with torch.device("cpu"):
            return x + torch.ones(x.shape[0], 1)


@case()
class TrainInGlue(Base):
    """The forward sets a mode, as frozen batch norms do."""

    def forward(self, x: torch.Tensor) -> Any:
        self.layers[1].eval()
        return super().forward(x)
