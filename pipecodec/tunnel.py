"""The bit tunnel: differentiable leaves of any dtype as one float32 tensor, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _C
from .errors import FrameError

__all__ = [
    "ENTERED",
    "LEFT",
    "Receiver",
    "Sender",
    "enter_tunnel",
    "entered_with_gradients",
    "leave_tunnel",
]

# Bits of other dtypes are no float32 numbers: nothing may compute with a tunnel or with its
# gradient. In particular a tunnel must be used once, since autograd adds the gradients of two uses.


# A leaf that nobody used gets no gradient, as in one process, and not zeros. Which leaves those are
# crosses in the tail of the tunnel's gradient, where the host can read it without waiting, or
# beside it: noted on the sender's node where the two tunnels are one tensor, else by a Receiver's
# ``note_unused``.


class Sender(Protocol):
    """Who sends a value, and gets the gradient of its tunnel."""

    unused: Sequence[int] | None
    """The leaves that nobody used, where that is known otherwise than from the gradient."""

    take_gradient: Callable[[Tensor], bool] | None
    """Returns True if nobody else will use this memory of a lone leaf's gradient."""


class Receiver(Protocol):
    """Who receives a value, and gives the gradient of its tunnel."""

    note_unused: Callable[[list[int], _C.Tunnel], None] | None
    """Told in backward which leaves of the tunnel nobody used."""


def enter_tunnel(
    tunnel: _C.Tunnel, token: Tensor, leaves: tuple[Tensor, ...], sender: Sender
) -> Tensor:
    """Return the 1-D float32 tensor that holds the bits of ``leaves``.

    Its gradient holds the bits of theirs, and reaches ``token`` (as zeros) in any case. A lone
    contiguous leaf of a multiple of 16 bytes is not copied: the tunnel shares its memory. Nor is
    its gradient where ``sender.take_gradient``, which is given the tunnel's, lets it.
    """
    return cast(Tensor, _Entry.apply(tunnel, token, sender, *leaves))  # type: ignore[no-untyped-call]


def leave_tunnel(
    tunnel: _C.Tunnel, received: Tensor, reuse: bool, receiver: Receiver
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a token, and the leaves whose bits ``received`` holds; none of them is a view.

    With ``reuse`` a lone leaf of a multiple of 16 bytes shares the memory of ``received``.

    The token is an empty float32 tensor. A backward pass that reaches it or any leaf gives
    ``received`` a gradient, with zeros for the leaves it did not reach, and says which those are.
    Raises ``FrameError`` for a tunnel that was left before and would get the gradients of both.
    """
    if len(tunnel) > 0 and received.requires_grad and torch.is_grad_enabled():
        if hasattr(received, "_pipecodec_left"):
            raise FrameError(
                "these tensors were unpacked before, and autograd would add the gradients of both "
                "as float32 numbers, which a tunnel's bits are not; unpack once, or a clone"
            )
        received._pipecodec_left = True  # type: ignore[attr-defined]
    token, *leaves = _Exit.apply(tunnel, received, reuse, receiver)  # type: ignore[no-untyped-call]
    return token, tuple(leaves)


def entered_with_gradients(tunnel: Tensor) -> bool:
    """Return whether any leaf that ``enter_tunnel`` was given requires a gradient."""
    return any(tunnel.grad_fn.needs_input_grad[3:])  # type: ignore[union-attr]


class _Entry(Function):
    """Leaves to tunnel; backward: the tunnel's gradient to the gradients of the leaves used."""

    @staticmethod
    def forward(
        ctx: Any, tunnel: _C.Tunnel, token: Tensor, sender: Sender, *leaves: Tensor
    ) -> Tensor:
        ctx.tunnel, ctx.token = tunnel, token.new_zeros(token.shape)
        ctx.sender, ctx.unused = sender, None
        return tunnel.gather(leaves, token.device, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = list(ctx.needs_input_grad[3:])
        unused = ctx.unused if ctx.unused is not None else ctx.sender.unused
        if unused is None:
            unused = ctx.tunnel.unused(gradient) if ctx.tunnel.tail and gradient.is_cpu else ()
        for index in unused:
            wanted[index] = False
        if not any(wanted):
            return (None, ctx.token, None, *(None for _ in wanted))
        # Else copies: the gradient is the engine's buffer, and what is returned may become a .grad.
        take = ctx.sender.take_gradient
        own = len(wanted) == 1 and take is not None and take(gradient)
        leaves = ctx.tunnel.gradients.scatter(gradient, own)
        gradients = (g if w else None for g, w in zip(leaves, wanted, strict=True))
        return (None, ctx.token, None, *gradients)


class _Exit(Function):
    """Tunnel to a token and leaves; backward: the leaves' gradients, zeros for unused ones."""

    @staticmethod
    def forward(
        ctx: Any, tunnel: _C.Tunnel, received: Tensor, reuse: bool, receiver: Receiver
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.tunnel, ctx.device, ctx.receiver = tunnel, received.device, receiver
        ctx.sent = received.grad_fn if type(received.grad_fn) is ENTERED else None
        leaves = tunnel.scatter(received, reuse)
        return (received.new_zeros(0), *leaves)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _: Tensor | None, *gradients: Tensor | None
    ) -> tuple[None, Tensor, None, None]:
        unused = [index for index, gradient in enumerate(gradients) if gradient is None]
        if ctx.sent is not None:
            ctx.sent.unused = unused
        elif gradients and ctx.receiver.note_unused is not None:
            ctx.receiver.note_unused(unused, ctx.tunnel)
        # A lone gradient may be handed on as it is, as autograd does in the backward of a view.
        return None, ctx.tunnel.gradients.gather(gradients, ctx.device, True), None, None


ENTERED = _Entry._backward_cls
"""The type of the autograd node of a tensor that ``enter_tunnel`` returned."""

LEFT = _Exit._backward_cls
"""The type of the autograd node of the tensors that ``leave_tunnel`` returned."""
