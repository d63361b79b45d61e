"""From the last stage to the loss function: its output, and the token behind the loss."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import torch

from .. import _C
from ..codec import TunnelCodec
from ..options import BoundaryOptions
from .token import nothing_to_train

__all__ = ["Ending"]


class Ending:
    """Ends the last stage in a loss, which is tied to the stage's input; see ``loss.loss_of``.

    ``codec`` is the stage's outgoing one: under activation checkpointing, which passes nothing but
    tensors, the output is packed for the loss function. While ``kept`` is a list, outputs are
    appended to it, and there is no loss. ``wrong_losses``, where it is a list, takes the errors of
    a batch's losses, which are scalars while ``scalar_losses`` is True.
    """

    def __init__(self) -> None:
        # Leaves show whether they require a gradient only where gradients are enabled. Reentrant
        # checkpointing runs the stage without them first, and takes every float as differentiable.
        self.codec = _codec_within("by-dtype")
        self._seen = _codec_within("auto")
        self.kept: list[Any] | None = None
        self.wrong_losses: list[str] | None = None
        self.scalar_losses = True
        self._token: torch.Tensor | None = None
        self._losses: deque[Any] = deque()
        self._blind = False

    def clear(self) -> None:
        """Forget the losses of a batch."""
        self._losses.clear()
        if self.wrong_losses is not None:
            self.wrong_losses.clear()

    def send(self, output: Any, token: torch.Tensor, recomputes: bool) -> Any:
        """Return the stage's result for its module's output."""
        if self.kept is not None:
            self.kept.append(output)
            return ()
        if not recomputes:
            self._token = token
            return output
        if torch.is_grad_enabled() and not _C.in_backward():
            self._blind = False
            return self._seen.send(output, token, token.device)
        sent = self.codec.send(output, token, token.device)
        if not _C.in_backward():
            self._blind = True
        elif self._blind:
            loss = self._losses.popleft()
            if not _C.entered_with_gradients(sent[0]) and not _reaches_a_leaf(loss):
                raise nothing_to_train()
        return sent

    def receive(self, returned: Any, recomputes: bool) -> tuple[Any, torch.Tensor | None]:
        """Return the module's output and the token, from the stage's last result."""
        if recomputes:
            return self.codec.receive(returned)
        token, self._token = self._token, None
        return returned, token

    def note_loss(self, loss: Any, recomputes: bool) -> None:
        """Keep a loss until its output is recomputed.

        An output that was sent without gradients counts as differentiable; whether the loss depends
        on anything trained is seen no earlier.
        """
        if recomputes and self._blind:
            self._losses.append(getattr(loss, "grad_fn", None))


def _codec_within(differentiable: Literal["auto", "by-dtype"]) -> TunnelCodec:
    """Return a codec whose two sides are in one process, where a value may be sent again."""
    options = BoundaryOptions(differentiable=differentiable, dynamic_shape=True)
    codec = TunnelCodec.of(options, "loss")

    def note_unused(unused: list[int], tunnel: _C.Tunnel) -> None:
        codec.unused = unused  # the stage is recomputed next, and leaves these out

    codec.note_unused = note_unused
    return codec


def _reaches_a_leaf(node: Any) -> bool:
    """Return whether backward from ``node`` ends in a leaf that did not come out of a tunnel."""
    seen, unvisited = {node}, [node]
    while unvisited:
        node = unvisited.pop()
        if node is None or node.name() == _C.EXIT:
            continue
        if not node.next_functions:
            return True
        found = {following for following, _ in node.next_functions} - seen
        seen |= found
        unvisited += found
    return False
