"""The bit tunnel: differentiable leaves of any dtype as one float32 tensor, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _C
from .errors import FrameError

__all__ = ["enter_tunnel", "leave_tunnel"]

# Bits of other dtypes are no float32 numbers: nothing may compute with a tunnel or with its
# gradient. In particular a tunnel must be used once, since autograd adds the gradients of two uses.


def enter_tunnel(
    tunnel: _C.Tunnel,
    token: Tensor,
    leaves: tuple[Tensor, ...],
    take_gradient: Callable[[Tensor], bool] | None = None,
) -> Tensor:
    """Return the 1-D float32 tensor that holds the bits of ``leaves``.

    Its gradient holds the bits of theirs, and reaches ``token`` (as zeros) in any case. A lone
    contiguous leaf of a multiple of 16 bytes is not copied: the tunnel shares its memory. Nor is
    its gradient where ``take_gradient``, which is given the tunnel's, says that nobody else will
    use that tensor's memory.
    """
    return cast(Tensor, _Entry.apply(tunnel, token, take_gradient, *leaves))  # type: ignore[no-untyped-call]


def leave_tunnel(
    tunnel: _C.Tunnel, received: Tensor, reuse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a token, and the leaves whose bits ``received`` holds; none of them is a view.

    With ``reuse`` a lone leaf of a multiple of 16 bytes shares the memory of ``received``.

    The token is an empty float32 tensor. A backward pass that reaches it or any leaf gives
    ``received`` a gradient, with zeros for the leaves it did not reach. Raises ``FrameError`` for a
    tunnel that was left before and would get the gradients of both.
    """
    if len(tunnel) > 0 and received.requires_grad and torch.is_grad_enabled():
        if hasattr(received, "_pipecodec_left"):
            raise FrameError(
                "these tensors were unpacked before, and autograd would add the gradients of both "
                "as float32 numbers, which a tunnel's bits are not; unpack once, or a clone"
            )
        received._pipecodec_left = True  # type: ignore[attr-defined]
    token, *leaves = _Exit.apply(tunnel, received, reuse)  # type: ignore[no-untyped-call]
    return token, tuple(leaves)


class _Entry(Function):
    """Leaves to tunnel; backward: the tunnel's gradient to the leaves' gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        tunnel: _C.Tunnel,
        token: Tensor,
        take_gradient: Callable[[Tensor], bool] | None,
        *leaves: Tensor,
    ) -> Tensor:
        ctx.tunnel, ctx.token = tunnel, token.new_zeros(token.shape)
        ctx.take_gradient = take_gradient
        return tunnel.gather(leaves, token.device, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[3:]
        # Else copies: the gradient is the engine's buffer, and what is returned may become a .grad.
        own = len(wanted) == 1 and ctx.take_gradient is not None and ctx.take_gradient(gradient)
        leaves = ctx.tunnel.gradients.scatter(gradient, own)
        gradients = (g if w else None for g, w in zip(leaves, wanted, strict=True))
        return (None, ctx.token, None, *gradients)


class _Exit(Function):
    """Tunnel to a token and leaves; backward: the leaves' gradients, zeros for unused ones."""

    @staticmethod
    def forward(ctx: Any, tunnel: _C.Tunnel, received: Tensor, reuse: bool) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.tunnel, ctx.device = tunnel, received.device
        leaves = tunnel.scatter(received, reuse)
        return (received.new_zeros(0), *leaves)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _: Tensor | None, *gradients: Tensor | None
    ) -> tuple[None, Tensor, None]:
        # A lone gradient may be handed on as it is, as autograd does in the backward of a view.
        return None, ctx.tunnel.gradients.gather(gradients, ctx.device, True), None
