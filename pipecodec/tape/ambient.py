"""The surroundings of a call: gradient mode, autocast and the default dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch

__all__ = ["Ambient", "ambient", "ambient_now"]


class Ambient(NamedTuple):
    """The state of torch's global switches that change what a call computes."""

    grad: bool
    default_dtype: torch.dtype
    device_type: str
    autocast: bool
    autocast_dtype: torch.dtype


def ambient_now(device: torch.device | None) -> Ambient:
    """Return the state of now, for calls on `device`."""
    kind = "cpu" if device is None or device.type == "meta" else device.type
    return Ambient(
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        kind,
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
    )


@contextmanager
def ambient(state: Ambient, entry: Ambient) -> Iterator[None]:
    """Set the switches in which `state` differs from `entry`, that of the model's entry.

    All others stay as they are, so that a tape that was observed with gradients also runs without.
    """
    with ExitStack() as stack:
        if state.grad != entry.grad:
            stack.enter_context(torch.set_grad_enabled(state.grad))
        if state[3:] != entry[3:]:
            stack.enter_context(
                torch.autocast(
                    state.device_type, enabled=state.autocast, dtype=state.autocast_dtype
                )
            )
        if state.default_dtype != entry.default_dtype:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(state.default_dtype)
        yield
