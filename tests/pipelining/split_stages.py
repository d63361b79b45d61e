"""Stages whose backward pass is hard to split into one for inputs and one for weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .stages import WIDTH, Last, Middle

__all__ = ["MIDDLES", "Deaf", "WithoutParameters"]


class Repeated(nn.Module):
    """Uses one weight three times, one after the other, and in two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.other = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Any:
        for _ in range(3):
            hidden = self.linear(hidden).tanh()
        return {"hidden": self.other(hidden) + self.other(hidden.sin())}


class SameGradient(nn.Module):
    """Adds weights, so that their gradients are one tensor in autograd's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.randn(WIDTH))
        self.two = nn.Parameter(torch.randn(WIDTH))
        self.three = nn.Parameter(torch.randn(6, WIDTH))

    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": hidden * (self.one + self.two) + self.three}


class Expanded(nn.Module):
    """Gives a weight a gradient that is an expanded scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 3))

    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": hidden + self.weight.sum()}


class Alone(nn.Module):
    """Makes values of weights alone, one of which is used by the last stage, one by none."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(WIDTH, 4))
        self.right = nn.Parameter(torch.randn(4, WIDTH))
        self.skip = nn.Parameter(torch.randn(WIDTH))
        self.lost = nn.Parameter(torch.randn(WIDTH))

    def forward(self, hidden: Tensor) -> Any:
        both = self.left @ self.right
        mixed = hidden.tanh() + both.mean(0)
        return {"hidden": mixed, "skip": both[:6] * self.skip, "extra": {"n": self.lost * 2}}


class Sometimes(nn.Module):
    """Uses some weights in some micro-batches only, and some never."""

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.Linear(WIDTH, WIDTH)
        self.odd = nn.Linear(WIDTH, WIDTH)
        self.never = nn.Linear(WIDTH, WIDTH)
        self.calls = 0

    def forward(self, hidden: Tensor) -> Any:
        self.calls += 1
        layer = self.even if self.calls % 4 == 0 else self.odd
        self.never(hidden)
        return {"hidden": layer(hidden).tanh()}


class Frozen(Middle):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class HalfFrozen(Middle):
    def __init__(self) -> None:
        super().__init__()
        self.linear.weight.requires_grad_(False)
        self.norm.bias.requires_grad_(False)


class Detached(Middle):
    """Lets no gradient reach its input."""

    def forward(self, hidden: Tensor) -> Any:
        return super().forward(hidden.detach())


class _InPlace(torch.autograd.Function):
    """Writes into the gradient that it gets, as fused kernels do, and into tensors it saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.x, ctx.weight = x.clone(), weight
        return x * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        of_weight = ctx.x.mul_(gradient).flatten(0, -2).sum(0)
        return gradient.clone().mul_(ctx.weight), of_weight


class Fused(nn.Module):
    """Uses a function of its own, whose backward pass can run only once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": self.linear(_InPlace.apply(self.linear(hidden).tanh(), self.weight))}


class Hooked(Middle):
    """Has hooks on a value, on a module, and on parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear.weight.register_hook(lambda gradient: gradient * 2)
        self.norm.weight.register_post_accumulate_grad_hook(self._note)
        self.norm.register_full_backward_hook(lambda norm, inputs, outputs: (inputs[0] * 2,))
        self.scale = nn.Parameter(torch.rand(WIDTH))
        self.register_buffer("calls", torch.zeros(()))

    def _note(self, parameter: Tensor) -> None:
        self.calls += 1 + parameter.grad.abs().sum()  # type: ignore[union-attr]

    def forward(self, hidden: Tensor) -> Any:
        inner = self.linear(self.norm(hidden)) * self.scale
        inner.register_hook(lambda gradient: gradient * 3)
        return {"hidden": hidden + torch.tanh(inner)}


class Checkpointed(nn.Module):
    """Checkpoints a part of itself."""

    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor) -> Any:
        inner = checkpoint(self.inner, self.norm(hidden), use_reentrant=self.reentrant)
        return {"hidden": hidden + inner}


class Reentrant(Checkpointed):
    reentrant = True


class Sparse(nn.Module):
    """Has a sparse gradient, and a table that is looked up by values that crossed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, WIDTH, sparse=True)

    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": hidden + self.table(((hidden.detach() > 0).sum(-1) % 8)[:1])}


class _NoWeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return x * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.weight, None


class WithoutGradient(nn.Module):
    """Has a weight to which its function gives no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))
        self.shared = nn.Parameter(torch.randn(WIDTH))

    def forward(self, hidden: Tensor) -> Any:
        hidden = _NoWeightGradient.apply(hidden * self.shared, self.weight)
        return {"hidden": _NoWeightGradient.apply(hidden, self.shared)}


class Experts(nn.Module):
    """Sends each token to one of a table's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, WIDTH, WIDTH) / 4)
        self.gate = nn.Linear(WIDTH, 3)

    def forward(self, hidden: Tensor) -> Any:
        weights, choice = self.gate(hidden).softmax(-1).max(-1)
        result = torch.zeros_like(hidden)
        for index in choice.unique().tolist():
            chosen = choice == index
            result[chosen] = weights[chosen, None] * (hidden[chosen] @ self.experts[index])
        return {"hidden": hidden + result}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, hidden: Tensor) -> Any:
        return {"hidden": self.lstm(hidden)[0] * self.scale + hidden * self.scale.exp()}


MIDDLES = {
    kind.__name__: kind
    for kind in (
        Repeated,
        SameGradient,
        Expanded,
        Alone,
        Sometimes,
        Frozen,
        HalfFrozen,
        Detached,
        Fused,
        Hooked,
        Checkpointed,
        Reentrant,
        Sparse,
        WithoutGradient,
        Experts,
        Recurrent,
    )
}


class WithoutParameters(nn.Module):
    """A first stage that has nothing to train."""

    def forward(self, ids: Tensor) -> Any:
        return {"hidden": torch.stack([ids.float() / (i + 3) for i in range(WIDTH)], -1).sin()}


class Deaf(Last):
    """A last stage whose loss ignores its input."""

    def forward(self, hidden: Tensor) -> Any:
        return super().forward(torch.ones_like(hidden))
