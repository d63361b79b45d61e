"""The cost of one more value of a known structure on the simulated device, in several ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pipecodec import Codec, legacy

from . import Device

__all__ = ["WAYS", "on_device", "on_host", "origin_receive", "origin_send", "steady_counts"]

Way = Callable[[], tuple[Callable[[Any], Any], Callable[[Any], Any]]]


def on_device(value: Any) -> Any:
    """Return the value with its tensors on the device, in the same strides, as leaves."""

    def moved(leaf: torch.Tensor) -> torch.Tensor:
        there = leaf.detach().to("sim")
        return there.requires_grad_(leaf.requires_grad)

    return pytree.tree_map_only(torch.Tensor, moved, value)


def on_host(value: Any) -> Any:
    """Return the value with its tensors on the CPU, without gradients."""
    return pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.detach().cpu(), value)


def origin_send(value: Any) -> Any:
    """Send by the functions of the file that this project grew out of."""
    metadata, tensors = legacy.flatten(value, torch.device("sim"))
    text = list(legacy.encode_metadata(metadata).encode())
    return [*tensors, torch.tensor(text, dtype=torch.uint8, device="sim")]


def origin_receive(tensors: Any) -> Any:
    """Receive the tensors of ``origin_send``."""
    text = tensors[-1].cpu().numpy().tobytes().decode()
    return legacy.unflatten(tensors[:-1], legacy.decode_metadata(text))


def _codecs(**settings: Any) -> Way:
    def made() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        return Codec(**settings).pack, Codec(**settings).unpack

    return made


WAYS: dict[str, Way] = {
    "slots": _codecs(values="static"),
    "tunnel": _codecs(values="static", transport="tunnel"),
    "slots, read always": _codecs(read="always"),
    "origin": lambda: (origin_send, origin_receive),
}
"""Each makes a sender and a receiver."""


def steady_counts(device: Device, way: str, value: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return the counts of packing and of unpacking the value, from the third time on."""
    send, receive = WAYS[way]()
    there = on_device(value)
    with device.kernels():
        for _ in range(3):
            device.reset()
            packed = send(there)
            sending = device.counts()
            device.reset()
            receive(packed)
            receiving = device.counts()
    return sending, receiving
